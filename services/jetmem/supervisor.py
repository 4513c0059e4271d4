"""`jetmem up`: one nats-server and every stage of the flow as children, restarted when they die.

Everything is bound to loopback and kept below one data folder. All children are started from the main thread,
because the kernel ties their lives to it (`adapters.processes`).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import nats
import nats.errors

from jetmem import flow
from jetmem.adapters import nats_server, processes
from jetmem.adapters.data_folder import DataFolder, Refused, Running, State, own_mark
from jetmem.adapters.http_health import healthz
from jetmem.adapters.nats_connect import connect_options
from jetmem.adapters.nats_server import NatsSettings, ServerConfig
from jetmem.adapters.supervised import Child, Timing
from jetmem.runtime.errors import Broken
from jetmem.runtime.settings import Common
from jetmem.tasks import end
from jetmem_schemas import subjects
from jetmem_schemas.failures import ERROR_CODE_HEADER

BROKER: Final = "nats-server"
#: A tenant of nobody, asked to see whether questions are answered.
PROBE_TENANT: Final = "jetmem-ready"
#: Sentences of a start that whoever started it in the background is told.
_TOLD_MAX: Final = 100
_TICK_S: Final = 0.1
_HEALTH_EVERY_S: Final = 0.5
_PROBE_TIMEOUT_S: Final = 5.0
#: A port of the run before may be held for a moment while that run's children end.
_PORT_GRACE_S: Final = 2.0


class StartFailed(Exception):
    """Not ready in time; the message says which process and why, exit code 1."""


def stage_command(stage: str) -> list[str]:
    """How a stage is started. `-P`: a folder of the user's must not shadow a package of ours."""
    return [sys.executable, "-P", "-m", "jetmem", "run", stage]


def up_command() -> list[str]:
    """How the supervisor itself is started in the background."""
    return [sys.executable, "-P", "-m", "jetmem", "up"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and where.

    Attributes:
        port: Of the broker; 0 takes a free one.
        http_base: First of the health ports; 0 takes free ones.
        environ: Environment of the stages, user settings included.
        command: How a stage is started (tests put a stand-in here).
        starting: What a person is told when the stages are started, if anything.
    """

    root: Path
    port: int = 4222
    http_base: int = 0
    common: Common = Common()
    nats: NatsSettings = NatsSettings()
    environ: Mapping[str, str] = {}
    command: Callable[[str], Sequence[str]] = stage_command
    timing: Timing = Timing()
    starting: str = ""


class Supervisor:
    """Runs the plan until it is stopped. Use it from the main thread's event loop.

    Attributes:
        url: The broker's address.
        ready: Set once questions were answered and every stage was healthy.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        show: Callable[[State], None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = DataFolder(plan.root)
        self.ready = asyncio.Event()
        self.url = ""
        self._plan = plan
        self._show = show
        self._hears = tell
        self._told: list[str] = []
        self._stopping = asyncio.Event()
        self._hurry = False
        self._children: list[Child] = []
        self._shown: State | None = None
        self._stages_started = False
        self._mark = own_mark()

    def stop(self) -> None:
        """Drain and stop all; called again, it kills what is left."""
        self._hurry = self._stopping.is_set()
        self._stopping.set()

    def running(self) -> list[Running]:
        """The broker and the stages, in the order of the flow."""
        return [child.running() for child in self._children]

    async def run(self) -> None:
        """Run until `stop`.

        Raises:
            Refused: The folder or a port is in use, there is no nats-server, or a stage refuses to begin.
            StartFailed: Not ready in time.
        """
        self.folder.open()
        try:
            self._publish()
            await self._prepare()
            asking = asyncio.create_task(self._ask())
            try:
                await self._watch(asking)
            finally:
                await end(asking)
                await self._end()
        finally:
            self.folder.close()

    async def _prepare(self) -> None:
        plan = self._plan
        try:
            binary = nats_server.find_binary(plan.nats.server)
        except Broken as error:
            raise Refused(str(error)) from error
        ports, broker_port = await self._ports()
        self.url = f"nats://{nats_server.LOOPBACK}:{broker_port}"
        config = self.folder.run / "nats.conf"
        store = nats_server.file_store_bytes(plan.nats, plan.common.memory_bytes_max)
        nats_server.write_config(
            config,
            ServerConfig(store=self.folder.nats, port=broker_port, file_store_bytes_max=store, monitor_port=ports[-1]),
        )
        self._children = [self._child(BROKER, nats_server.command(binary, config), ports[-1])]
        self._children += [
            self._child(stage.name, plan.command(stage.name), port)
            for stage, port in zip(flow.STAGES, ports, strict=False)
        ]

    async def _ports(self) -> tuple[list[int], int]:
        """Health ports, the broker's last, and the broker's own."""
        plan = self._plan
        count = len(flow.STAGES) + 1
        *ports, broker = processes.free_ports(count + 1)
        if plan.port:
            broker = plan.port
            await _need_free(broker, "--port")
        if plan.http_base:
            ports = list(range(plan.http_base, plan.http_base + count))
            for port in ports:
                await _need_free(port, "--http-port")
        return ports, broker

    def _child(self, name: str, argv: Sequence[str], http_port: int) -> Child:
        told = {
            "JETMEM_SERVER": self.url,
            "JETMEM_DATA": str(self.folder.root),
            "JETMEM_HTTP_HOST": nats_server.LOOPBACK,
            "JETMEM_HTTP_PORT": str(http_port),
            "JETMEM_SHARD": "0",
            "JETMEM_SHARDS": "1",
        }
        log = self.folder.logs / f"{name}.log"
        return Child(name, argv, {**self._plan.environ, **told}, log, http_port, self._plan.timing)

    async def _watch(self, asking: asyncio.Task[None]) -> None:
        began = time.monotonic()
        self._children[0].start()
        while not self._stopping.is_set():
            now = time.monotonic()
            for child in self._children:
                said = child.tick(now)
                if said:
                    self._tell(said)
            if self._children[0].state == "ok" and not self._stages_started:
                self._stages_started = True
                for child in self._children[1:]:
                    child.start()
                if self._plan.starting:
                    self._tell(self._plan.starting)
            if asking.done():
                asking.result()
            if not self.ready.is_set():
                self._check_patience(now - began)
            self._publish()
            await _sleep_unless(self._stopping, _TICK_S)

    def _check_patience(self, waited_s: float) -> None:
        timing = self._plan.timing
        for child in self._children:
            if child.refused:
                raise Refused(child.detail)
        failing = [child for child in self._children if child.failures or child.state == "restarting"]
        if waited_s > timing.alive_within_s or (failing and waited_s > timing.ready_within_s):
            late = failing or [child for child in self._children if child.state != "ok"]
            whys = "; ".join(f"{c.name} ({c.state}): {c.detail or 'no answer yet'}, log {c.log}" for c in late)
            raise StartFailed(f"not ready after {waited_s:.0f} s: {whys or 'no query is answered'}")

    async def _ask(self) -> None:
        """Keep asking every child how it is, and at first the pipeline whether it answers."""
        while True:
            alive = [child for child in self._children if child.process is not None]
            answers = await asyncio.gather(*(healthz(child.http_port) for child in alive))
            now = time.monotonic()
            for child, (healthy, detail) in zip(alive, answers, strict=True):
                child.judged(healthy, detail, now)
            all_well = self._stages_started and all(child.state == "ok" for child in self._children)
            if all_well and not self.ready.is_set() and await self._answered():
                self.ready.set()
            await asyncio.sleep(_HEALTH_EVERY_S if self.ready.is_set() else _TICK_S)

    async def _answered(self) -> bool:
        common = msgspec.structs.replace(self._plan.common, server=self.url)
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                connection = await nats.connect(**connect_options(common, "jetmem-up", _ignore))
                try:
                    reply = await connection.request(
                        subjects.query(PROBE_TENANT, "status"), b"{}", timeout=_PROBE_TIMEOUT_S
                    )
                finally:
                    await connection.close()
        except (nats.errors.Error, OSError, TimeoutError):
            return False
        return not (reply.headers and ERROR_CODE_HEADER in reply.headers)

    async def _end(self) -> None:
        """Stop in reverse order, so that each can still reach those it needs while it drains."""
        for child in self._children:
            if child.process is None:
                child.state = "stopped"
        for child in reversed(self._children):
            if child.process is None:
                continue
            child.state, child.detail = "stopping", ""
            self._publish()
            await self._end_one(child.process)
            child.process, child.state = None, "stopped"
        self._publish()

    async def _end_one(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
        deadline = time.monotonic() + self._plan.timing.stop_s
        while process.poll() is None:
            if self._hurry or time.monotonic() > deadline:
                process.kill()
            await asyncio.sleep(0.02)

    def _tell(self, sentence: str) -> None:
        if not self.ready.is_set():
            self._told.append(sentence)
        self._hears(sentence)

    def _publish(self) -> None:
        state = State(
            pid=self._mark[0],
            started=self._mark[1],
            server=self.url,
            ready=self.ready.is_set(),
            processes=self.running(),
            told=self._told[:_TOLD_MAX],
        )
        if state != self._shown:
            self._shown = state
            self.folder.write(state)
            self._show(state)


async def _need_free(port: int, flag: str) -> None:
    deadline = time.monotonic() + _PORT_GRACE_S
    while not processes.port_is_free(port):
        if time.monotonic() > deadline:
            where = f"port {port} on {nats_server.LOOPBACK}"
            raise Refused(f"{where} is in use; stop what listens there or choose another with {flag}")
        await asyncio.sleep(_TICK_S)


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _ignore(_: Exception) -> None:
    """A probe that fails is tried again; there is nothing to add."""
