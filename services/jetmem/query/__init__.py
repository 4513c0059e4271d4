"""query: asks the other stages, answers agents, says what was degraded.

Reads: requests on `mem.<tenant>.query.<verb>`, shared among replicas. Emits: forget commands to MEMORY.
Store: none.
Ack point: none; a request without a reply is asked again by its sender.
Safe to kill: anywhere. A forget that was published is applied by persist whether or not query lives to say so.
"""
