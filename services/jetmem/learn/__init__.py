"""learn: knows which procedure works for which task, from the runs that agents report.

Reads: RECORD, by the projection loop. Emits: jobs to EMBED, for the vectors of tasks; asks embed itself for those of
definitions. Store: RocksDB `learn/rows`
(runs, what is counted of them, definitions, tasks with their vectors, checkpoint).
Ack point: none; the checkpoint is in the same write as runs and counts. A job is acknowledged when its vectors are
stored.
Safe to kill: anywhere. What was not written is applied again; vectors that lack are asked for again; what a forget left
to be counted anew is counted from its beginning.
"""
