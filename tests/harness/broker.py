"""A real nats-server for one test: temporary store, free port. A missing binary fails, it never skips."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.ports import free_port
from harness.waiting import DEADLINE_S, until
from jetmem.adapters.nats_server import ServerConfig, answers, command, find_binary, write_config
from jetmem.runtime import limits


class Broker:
    """`with Broker() as broker: await nats.connect(broker.url)`.

    The port and the store stay the same over `stop`, `kill` and `start`; a new `payload_bytes_max` counts from `start`.
    """

    def __init__(
        self,
        data: Path | None = None,
        port: int | None = None,
        accounts: str = "",
        payload_bytes_max: int = limits.BROKER_PAYLOAD_BYTES_MAX,
        file_store_bytes_max: int = 64 * 1024**3,
    ) -> None:
        self._own = data is None
        self.data = Path(tempfile.mkdtemp(prefix="jetmem-broker-")) if data is None else data
        self.port = port or free_port()
        self.payload_bytes_max = payload_bytes_max
        self.monitor_port = free_port()
        self._file_store_bytes_max = file_store_bytes_max
        self._accounts = accounts
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitoring(self) -> str:
        """Where its `/healthz`, `/varz` and `/jsz` are."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It is there and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> Path:
        return self.data / "nats-server.log"

    def start(self) -> None:
        """Start and wait until it answers."""
        config = self._configure()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command(find_binary(), config), stdout=log, stderr=log)
        until(self._up, f"nats-server answers on {self.port}")

    def _configure(self) -> Path:
        config = self.data / "nats.conf"
        server = ServerConfig(
            store=self.data / "nats",
            port=self.port,
            monitor_port=self.monitor_port,
            file_store_bytes_max=self._file_store_bytes_max,
            accounts=self._accounts,
            payload_bytes_max=self.payload_bytes_max,
        )
        write_config(config, server)
        return config

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(kill=False)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._end(kill=True)

    def reload(self, accounts: str) -> None:
        """Have it take other users and accounts while it runs, and wait until it has."""
        self._accounts = accounts
        self._configure()
        assert self._process is not None
        before = self._reloads()
        self._process.send_signal(signal.SIGHUP)
        until(lambda: self._reloads() > before, "nats-server has reloaded")

    def _reloads(self) -> int:
        return self.log.read_text(encoding="utf-8", errors="replace").count("Reloaded server configuration")

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> "Broker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._own:
            shutil.rmtree(self.data, ignore_errors=True)

    def _up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"nats-server ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")
        return answers(self.port)

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait(timeout=DEADLINE_S)
