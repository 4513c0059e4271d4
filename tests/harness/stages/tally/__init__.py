"""tally: counts the words that a tenant said. The least that a projection can be; only tests run it.

Reads: RECORD, by the projection loop. Emits: nothing. Store: RocksDB `tally` (words by entry, checkpoint).
Ack point: the checkpoint in the same write as the data.
Safe to kill: anywhere. What was not written is applied again.
"""
