"""Loopback ports that nobody listens on."""

import socket


def free_port() -> int:
    """A port that was free a moment ago; the kernel hands out another one each time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
