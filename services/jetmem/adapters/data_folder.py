"""The one folder that holds all data of `jetmem up`: its format, who uses it, what runs on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from jetmem.adapters.processes import Lock, started_at

#: Raised with a change that an older jetmem would misread.
FORMAT: Final = 1


class Refused(Exception):
    """What was asked for cannot be done as things are; the message is one sentence for a person, exit code 2."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised process; `http_port` answers `/healthz`, a stage's `/metrics` too."""

    name: str
    pid: int
    state: str
    restarts: int
    http_port: int
    detail: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`run/state.json`: the supervisor (pid, and when it began), its broker, its children; what it `told` of its start.

    `told` is for whoever waits in another process until it is ready.
    """

    pid: int
    started: str
    server: str
    ready: bool
    processes: list[Running] = []
    told: list[str] = []


def default_root(environ: Mapping[str, str]) -> Path:
    """Where data is kept if nothing else is said: `$XDG_DATA_HOME/jetmem`, else `~/.local/share/jetmem`."""
    base = environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "jetmem"


class DataFolder:
    """Paths below one root, and the lock that gives it to one supervisor at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.nats = self.root / "nats"
        self.logs = self.root / "logs"
        self.run = self.root / "run"
        self.lock = Lock(self.run / "lock")
        self._state = self.run / "state.json"

    def open(self) -> None:
        """Make it, check its format and take its lock.

        Raises:
            Refused: Another uses it, its format is newer than ours, or it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._check_format()
            locked = self.lock.acquire()
        except OSError as error:
            raise Refused(f"data folder {self.root} cannot be used: {error.strerror or error}") from error
        if not locked:
            raise self.taken()
        self.logs.mkdir(exist_ok=True)
        (self.root / "format").write_text(f"{FORMAT}\n", encoding="ascii")

    def close(self) -> None:
        """Nothing runs any more; another may take it."""
        self._state.unlink(missing_ok=True)
        self.lock.release()

    def in_use(self) -> bool:
        """Whether a supervisor has it now."""
        if not self.run.is_dir():
            return False
        if self.lock.acquire():
            self.lock.release()
            return False
        return True

    def taken(self) -> Refused:
        """What to say when it is in use."""
        stop = f"stop it with `jetmem down --data {self.root}`"
        return Refused(f"data folder {self.root} is in use by {self._owner()}; {stop} or choose another with --data")

    def read(self) -> State | None:
        """What was last written about what runs; None if nothing or nonsense."""
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=State)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, state: State) -> None:
        """Replace what is said about what runs; a reader sees the old or the new, never half."""
        fresh = self._state.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
        fresh.replace(self._state)

    def supervisor(self) -> State | None:
        """What runs, if the process that wrote it still is the same process."""
        state = self.read()
        if state is None or not state.started or started_at(state.pid) != state.started:
            return None
        return state

    def _owner(self) -> str:
        state = self.supervisor()
        return f"process {state.pid} ({state.server})" if state else "another process"

    def _check_format(self) -> None:
        path = self.root / "format"
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if not text.isdigit():
            raise Refused(f"data folder {self.root} has a format file that holds no number; is it a jetmem folder?")
        if int(text) > FORMAT:
            newer = f"data folder {self.root} has format {text}, this jetmem knows formats up to {FORMAT}"
            raise Refused(f"{newer}; use a newer jetmem or another folder with --data")


def own_mark() -> tuple[int, str]:
    """Our process's id and when it began."""
    return os.getpid(), started_at(os.getpid())
