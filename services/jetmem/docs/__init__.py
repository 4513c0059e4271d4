"""What is generated and checked in: `python -m jetmem.docs` writes it, `tests/unit/test_docs.py` compares it.

Sources are `flow.py`, the schemas, the settings, the metrics and the commands; nothing here says anything of its own.
Works in a checkout only, with the dependencies of `jetmem[server,dev]`.
"""
