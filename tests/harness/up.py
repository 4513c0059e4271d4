"""The pipeline as `jetmem up` starts it: real processes, real model."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.commands import PATIENT
from harness.ports import free_port
from harness.waiting import DEADLINE_S
from jetmem.console.temporary import model_cache


class Running:
    """What runs, until the block of `up` ends."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def processes(self) -> dict[str, dict[str, Any]]:
        """What the supervisor says of each, by name."""
        state = json.loads((self.folder / "run" / "state.json").read_text())
        return {each["name"]: each for each in state["processes"]}

    def pid(self, name: str) -> int:
        return int(self.processes()[name]["pid"])

    @contextmanager
    def hung(self, name: str) -> Iterator[None]:
        """A process that is there and does nothing."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def up(folder: Path, **settings: Any) -> Iterator[Running]:
    """Start everything on a free port; it is ready when the block begins, and ends with SIGINT."""
    port = free_port()
    environ = {**os.environ, **PATIENT, "JETMEM_EMBED_CACHE": str(model_cache())}
    environ |= {f"JETMEM_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "jetmem", "up", "--data", str(folder), "--port", str(port)]
    errors = (folder / "stderr").open("wb")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environ)
    assert process.stdout
    try:
        assert process.stdout.readline().decode() == f"ready nats://127.0.0.1:{port}\n", (folder / "stderr").read_text()
        yield Running(f"nats://127.0.0.1:{port}", folder)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        errors.close()
