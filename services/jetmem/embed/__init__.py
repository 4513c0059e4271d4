"""embed: turns texts into vectors, questions before jobs.

Reads: EMBED, one durable consumer that all replicas share, acknowledged job by job; makes the stream again when the
broker lost it. Emits: `VectorsReady` to the subject that a job names. Answers: `memsvc.embed.any.encode`.
Store: none; a bounded cache of recent vectors by hash of the text.
Ack point: when the asker answered that it stored the vectors.
Safe to kill: anywhere. A job that was not acknowledged is delivered again, and its vectors are stored again with the
same content. A text that takes the process down is encoded alone from its third delivery on, with nothing else
held, and gets the empty vector after the fifth; nobody else's text is given up for it.
"""
