"""Measures the running service: `make eval` (does it find the right turn) and `make bench` (how fast).

Both start the real pipeline in a temporary folder and use it as an agent would, through `jetmem.client`. Only
figures that this code printed are quoted anywhere in the project.
"""
