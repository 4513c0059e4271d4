"""jetmem: memory for AI agents, fed by a message queue."""
