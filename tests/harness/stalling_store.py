"""A store that is written to faster than it compacts, as a process with `/metrics` like a stage's."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jetmem.adapters import rocks
from jetmem.runtime.clock import SystemClock
from jetmem.runtime.health import Health, serve_http

#: A disk so slow: bytes a second, of flushes and compactions.
_DISK_RATE = 1024 * 1024
_VALUE_BYTES = 1024


class StallingStore:
    """The process; it rests but in the blocks of `stalled`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """It is written to in the block, and catches up afterwards."""
        self._process.send_signal(signal.SIGUSR1)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGUSR2)


@contextmanager
def stalling_store(folder: Path, port: int) -> Iterator[StallingStore]:
    """Start it; `/metrics` is at the port soon."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "harness.stalling_store", str(folder), str(port)]
    process = subprocess.Popen(command, env=environ)
    try:
        yield StallingStore(process)
    finally:
        process.kill()
        process.wait()


def _slow() -> Any:
    made = _usual()
    made.set_write_buffer_size(1024 * 1024)
    made.set_level_zero_file_num_compaction_trigger(2)
    made.set_level_zero_slowdown_writes_trigger(2)
    made.set_level_zero_stop_writes_trigger(1000)
    made.set_ratelimiter(_DISK_RATE, 100_000, 10)
    return made


def _main(folder: Path, port: int) -> None:
    writing = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: writing.set())
    signal.signal(signal.SIGUSR2, lambda *_: writing.clear())
    rocks._options = _slow
    store = rocks.Rocks(folder, ["log"], format_version=1)
    serve_http(Health("stalling", SystemClock()), "127.0.0.1", port)
    while True:
        writing.wait()
        batch = store.batch()
        batch.put("log", os.urandom(8), os.urandom(_VALUE_BYTES))
        store.write(batch, sync=False)


_usual = rocks._options
if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
