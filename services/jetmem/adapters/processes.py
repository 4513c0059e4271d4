"""Child processes that cannot outlive their parent, their logs, and the lock of a data folder."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

#: A log larger than this becomes `<name>.1` when its process starts next.
LOG_BYTES_MAX: Final = 10 * 1024 * 1024
_TAIL_BYTES: Final = 16 * 1024
_PR_SET_PDEATHSIG: Final = 1
#: Ports below are those of well-known services; so many must lie between them and the outgoing ones to choose from.
_PORTS_FIRST: Final = 10_000
_PORTS_COUNT_MIN: Final = 5_000
_OUTGOING_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_OUTGOING_DEFAULT: Final = 32_768
_random: Final = random.SystemRandom()


def _die_with(parent: int) -> Callable[[], None]:
    """What a child runs between fork and exec, so that SIGKILL of `parent` ends it too (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before the call
            os._exit(1)

    return prepare


def spawn(argv: Sequence[str], environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, output appended to `log`.

    Call it from the main thread: the kernel ties the child's life to the thread that made it.

    Raises:
        OSError: It cannot be started.
    """
    rotate(log)
    with log.open("ab") as out:
        return subprocess.Popen(
            argv,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
        )


def rotate(log: Path) -> None:
    """Keep one older file of a log that has grown."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))


def last_line(log: Path, since: int = 0) -> str:
    """The last thing a log says at or behind offset `since`, on one line; "" for nothing."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return _readable(text)[:500]


def _readable(line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    parts = [str(fields[key]) for key in ("event", "error") if fields.get(key)]
    return ": ".join(parts) or line


def started_at(pid: int) -> str:
    """A mark of when a process began, to tell it from a later one with the same id; "" if it is gone."""
    if sys.platform != "linux":
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return shown.stdout.strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


class Lock:
    """An exclusive lock on a file, held as long as this process lives and does not `release`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Take it if nobody has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Let another take it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen here now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many different ports that nobody listens on, and that no outgoing connection is given.

    One of the kernel's own could be taken by a connection while its server is restarted; and who tries to reach such a
    port again and again may in the end be connected to itself.
    """
    found: list[int] = []
    while len(found) < count:
        port = _random.randrange(_PORTS_FIRST, _first_outgoing())
        if port not in found and port_is_free(port, host):
            found.append(port)
    return found


def _first_outgoing() -> int:
    """From here on the kernel gives ports to outgoing connections; Linux' default where it does not say so."""
    try:
        first = int(_OUTGOING_PORTS.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        first = 0
    return first if first >= _PORTS_FIRST + _PORTS_COUNT_MIN else _OUTGOING_DEFAULT
