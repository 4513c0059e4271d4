"""index: makes events and nodes findable, by words at once, by meaning as vectors come.

Reads: RECORD, by the projection loop; the settings of tenants, by which nodes leave the index. Emits: embedding jobs to
EMBED. Store: RocksDB `index/rows` (documents, vectors, what still lacks them, checkpoint), tantivy
`index/text/<partition>`, snapshots of graphs `index/graphs`.
Ack point: none; each store keeps its checkpoint in the same commit as its data, reading resumes at the lower.
Safe to kill: anywhere. What one store has and the other lacks is applied to that one again.
"""
