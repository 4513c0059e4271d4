"""summarize: makes the table of contents: segments of sessions, and days, weeks, months and years above them.

Reads: RECORD, by the projection loop. Emits: nodes with their grips to MEMORY, as `derived` messages, which come back
recorded. Store: RocksDB `summarize/rows` (events' words, segments, sessions, nodes, what waits, checkpoint).
Ack point: none; the checkpoint is in the same write as segments and what is to be made of them. A node waits in the
outbox until it has come back in RECORD.
Safe to kill: anywhere. What was not written is applied again, what waited is made and published again.
"""
