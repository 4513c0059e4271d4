"""persist: the gatekeeper. It alone reads what agents said and turns it into facts.

Reads: MEMORY, ordered, from its own checkpoint. Of several shards each records what is of its partitions (`shares`),
and takes or gives partitions when the number of shards changes (`moving`, `giving`).
Emits: facts and heads to RECORD, dead letters to DEAD, forgets of what expires to MEMORY.
Store: RocksDB `persist/`: log, ids, time, sessions, activity, nodes, outbox, checkpoint.
Ack point: none; one synced write holds record, checkpoint and outbox rows.
Safe to kill: anywhere. A batch is written whole or not at all; what follows from it is sent again on start.
"""
