"""Loopback ports that nobody listens on."""

from jetmem.adapters.processes import free_ports


def free_port() -> int:
    """A port that was free a moment ago, another one each time."""
    return free_ports(1)[0]
