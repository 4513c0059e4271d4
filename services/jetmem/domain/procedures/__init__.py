"""What is learnt from runs, as pure rules: no store, no broker, no clock.

`run` names what a run is here; `statistics`, `decay` and `sketch` count it, `relations` and `contagion` pass it on,
`crystals` and `patterns` keep what proved itself, `estimate`, `difficulty`, `stacking` and `prediction` say how likely
success is, `choosing` picks, `retrieval` finds the task again, `federation` shares counts, `insights` sums up.

Every row carries `seq`, the number in the log of the last run that it took: a run at or below it changes nothing.
"""
