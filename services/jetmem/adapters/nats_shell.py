"""The shell of every stage process: connection, endpoints, background loops, health, drain. FastStream inside.

Request handlers are FastStream subscribers; ordered reading is a pull loop of ours on the same connection
(decision 0003).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import nats.errors
from faststream import FastStream
from faststream.nats import NatsBroker, NatsMessage
from faststream.nats.response import NatsResponse
from faststream.nats.security import NatsCredentials, NatsNKey, NatsSecurity, NatsUserPassword
from nats.aio.client import Client

from jetmem.adapters.expiry import ExpiryWatch
from jetmem.adapters.nats_ask import ask
from jetmem.adapters.nats_connect import check_server, connect_options, taps
from jetmem.adapters.stage_disk import StageDisk
from jetmem.client.flushing import flushed
from jetmem.runtime import limits, metrics, tracing
from jetmem.runtime.clock import Clock, SystemClock
from jetmem.runtime.errors import Broken, Poison, RequestFailed, Retryable
from jetmem.runtime.health import Health, serve_http
from jetmem.runtime.logs import logger
from jetmem.runtime.scraping import at_scrape
from jetmem.runtime.settings import Common
from jetmem.tasks import end
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.failures import ERROR_CODE_HEADER, ERROR_HEADER, Failure
from jetmem_schemas.internal import Counts, StageStatus

_encode_json = msgspec.json.Encoder().encode
_encode = msgspec.msgpack.Encoder().encode
#: What is being closed may be gone: of a transport that it has closed already, uvloop says `RuntimeError`.
_GONE: Final = (OSError, RuntimeError)


class Endpoint(NamedTuple):
    """One verb between stages: the request's type and the coroutine that answers it."""

    request: Any
    answer: Callable[[int, Any], Awaitable[Any]]


#: Answers one raw request: (subject, payload) to (code for the metric, verb, reply body, headers).
Answer = Callable[[str, bytes], Awaitable[tuple[str, str, bytes, dict[str, str]]]]


class Served(Protocol):
    """What answers on a subject: starts with the process, or by itself once that runs."""

    async def start(self) -> None:
        """Answer from now on."""

    async def stop(self) -> None:
        """Answer what has come, and then no more."""


class _StoppedEarly(Exception):
    """A stop was asked for before the start was done."""


class _App(FastStream):
    """FastStream looks at its flag only after the start; who waits in the start listens to `exiting`."""

    def __init__(self, broker: NatsBroker, **options: Any) -> None:
        super().__init__(broker, **options)
        self.exiting = asyncio.Event()

    def exit(self) -> None:
        """Stop."""
        super().exit()
        self.exiting.set()


class _Broker(NatsBroker):
    """FastStream's, which stops also when the broker is away and nothing can be drained."""

    async def stop(self, *error: Any) -> None:
        """Drain and close; if that cannot be done, close."""
        nc = self._connection
        try:
            async with asyncio.timeout(limits.DRAIN_S):
                await super().stop(*error)
        except (nats.errors.Error, ExceptionGroup, TimeoutError, *_GONE) as why:
            logger().warning("not drained", error=f"{type(why).__name__}: {why}")
            if nc is not None and not nc.is_closed:
                with contextlib.suppress(*_GONE):
                    await nc.close()
            self._connection = None
            self.config.disconnect()


class Shell:
    """One stage process. Build it, add endpoints and loops, `await run()`.

    Attributes:
        nc: The broker connection; valid once `run` has started.
        health: What loops report to.
    """

    def __init__(
        self, stage: str, common: Common, *, clock: Clock | None = None, broker: NatsBroker | None = None
    ) -> None:
        self.stage = stage
        self.common = common
        self.clock = clock or SystemClock()
        self.health = Health(stage, self.clock)
        self.log = logger().bind(shard=common.shard)
        self._disk = StageDisk(stage, Path(common.data) / stage, self.clock)
        at_scrape(self._disk)
        self._version = metadata.version("jetmem")
        metrics.build.labels(stage, self._version).set(1)
        self.broker = broker or _Broker(
            **_secured(connect_options(common, f"jetmem-{stage}-{common.shard}", self._on_error, self._on_closed)),
            logger=None,
            apply_types=False,
            graceful_timeout=limits.DRAIN_S,
        )
        self.app = _App(self.broker, logger=None, lifespan=self._lifespan)
        self._loops: dict[str, Callable[[], Awaitable[None]]] = {"expiry": ExpiryWatch(stage, common, self.health).run}
        self._tasks: list[asyncio.Task[None]] = []
        self._starters: list[Callable[[], Awaitable[None]]] = []
        self._stoppers: list[Callable[[], Awaitable[None] | None]] = []
        self._fatal: BaseException | None = None
        self._stopping = False

    @property
    def nc(self) -> Client:
        """The one connection of this process."""
        connection = self.broker._connection  # FastStream has no public name for it
        if connection is None:
            raise Broken("the broker is not connected yet")
        return connection

    def partitions(self, count: int) -> list[int]:
        """The partitions that this shard owns."""
        return [p for p in range(count) if p % self.common.shards == self.common.shard]

    def loop(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        """Run `body` beside the endpoints; if it ends or raises, the process stops with an error."""
        self._loops[name] = body

    def on_start(self, starter: Callable[[], Awaitable[None]]) -> None:
        """Run before loops and endpoints; `Retryable` makes it run again."""
        self._starters.append(starter)

    def on_stop(self, stopper: Callable[[], Awaitable[None] | None]) -> None:
        """Run last, in reverse order, after the loops have ended."""
        self._stoppers.append(stopper)

    def serve(self, subject: str, table: Mapping[str, Endpoint], *, queue: str = "") -> Served:
        """Answer MessagePack requests `memsvc.<stage>.<partition>.<verb>` by table.

        Once the process runs, what this returns is to be started.
        """

        async def answer(at: str, payload: bytes) -> tuple[str, str, bytes, dict[str, str]]:
            _, _, partition, verb = at.split(".")
            endpoint = table.get(verb)
            if endpoint is None:
                raise RequestFailed("unknown_verb", f"{self.stage} has no verb {verb}")
            request = msgspec.msgpack.decode(payload, type=endpoint.request)
            number = int(partition) if partition.isdigit() else -1
            return "ok", verb, _encode(await endpoint.answer(number, request)), {}

        def known(at: str) -> str:  # a metric's label: never what a caller made up
            verb = at.rsplit(".", 1)[-1]
            return verb if verb in table else "unknown"

        return self.respond(subject, answer, queue=queue, on_refused=known)

    def respond(
        self, subject: str, answer: Answer, *, queue: str = "", on_refused: Callable[[str], str] | None = None
    ) -> Served:
        """Answer every request on `subject`; whatever happens, the caller gets a reply."""
        verb_of = on_refused or (lambda at: at.rsplit(".", 1)[-1])

        async def handle(msg: NatsMessage) -> NatsResponse | None:
            raw = msg.raw_message
            started = time.perf_counter()
            with tracing.serving(f"{self.stage} {verb_of(raw.subject)}", raw.headers):
                try:
                    code, verb, body, headers = await answer(raw.subject, raw.data)
                except Exception as error:  # the edge: every error becomes a reply, here and only here
                    failure = self._failure(error)
                    code, verb, body = failure.code, verb_of(raw.subject), _encode_json(failure)
                    headers = {ERROR_HEADER: failure.message, ERROR_CODE_HEADER: failure.code}
                metrics.requests.labels(self.stage, verb, code).inc()
                took_s = time.perf_counter() - started
                metrics.request_seconds.labels(self.stage, verb).observe(took_s, tracing.exemplar())
            return NatsResponse(body, headers=headers) if raw.reply else None

        served = self.broker.subscriber(subject, queue=queue, max_workers=limits.REQUESTS_HELD_MAX, decoder=_raw)
        served(handle)
        return served

    async def ask(self, subject: str, request: Any, reply: Any, timeout_s: float = limits.SERVICE_TIMEOUT_S) -> Any:
        """Ask another stage.

        Raises:
            RequestFailed: `unavailable` when nobody listens, `timeout`, or the code that the other gave.
        """
        _, asked, _, verb = subject.split(".")
        with tracing.asking(f"ask {asked} {verb}"), metrics.ask_seconds.labels(self.stage, asked, verb).time():
            return await ask(self.nc, subject, request, reply, timeout_s)

    def status(self, counts: Counts) -> StageStatus:
        """How this process is doing, with what its stage counts."""
        good, detail = self.health.verdict()
        instance = f"{self.stage}-{self.common.shard}"
        return StageStatus(self.stage, instance, good, detail, self.health.lag, self.health.last_error, counts)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            Broken: A loop failed, or the connection was closed for good; the process should exit non-zero.
        """
        self.app.after_startup(self._answering)
        self.app.on_shutdown(self._end_loops)  # the last hook: a stage's own may need its loops
        try:
            await self.app.run(sleep_time=0.05)
        except _StoppedEarly:
            self.log.info("stopped before it had started")
        if self._fatal is not None:
            raise Broken(f"{self.stage} stopped: {self._fatal}") from self._fatal

    async def flush(self) -> None:
        """As `flushed`."""
        await flushed(self.nc)

    async def close(self) -> None:
        """Let go of what `build` opened, in a process that never runs."""
        await self._stop()

    @asynccontextmanager
    async def _lifespan(self) -> Any:
        stop_http = stop_traces = None
        if self.common.otlp_endpoint:
            named = (f"jetmem-{self.stage}", self._version, self.common.otlp_endpoint, self.common.trace_share)
            stop_traces = tracing.export(*named)
        if self.common.http_port:  # here, where signals are handled already: who sees us may stop us
            stop_http = serve_http(self.health, self.common.http_host, self.common.http_port)
        try:
            await self._unless_stopped(self._start())
            yield
        finally:
            await self._stop()
            if stop_http:
                stop_http()
            if stop_traces:
                await asyncio.to_thread(stop_traces)

    async def _unless_stopped(self, start: Coroutine[Any, Any, None]) -> None:
        """Start; a broker that is away is waited for until somebody wants an end.

        Raises:
            _StoppedEarly: Somebody did.
        """
        starting, exiting = asyncio.create_task(start), asyncio.create_task(self.app.exiting.wait())
        try:
            await asyncio.wait({starting, exiting}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise _StoppedEarly
            starting.result()
        finally:
            await end(starting, exiting)

    async def _start(self) -> None:
        await self.broker.connect()
        taps(self.nc)  # from here on no sender's headers can end the connection
        for starter in [lambda: check_server(self.nc), *self._starters]:
            await self._until_done(starter)
        for name, body in self._loops.items():
            self._tasks.append(asyncio.create_task(self._guard(name, body), name=name))

    async def _answering(self) -> None:
        """Ready is who can be asked: the broker knows every subscription."""
        # lost just now: they are sent again with the connection
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            await self.flush()
        if not self._stopping:
            self.health.ready = True
            self.log.info("started")

    async def _until_done(self, starter: Callable[[], Awaitable[None]]) -> None:
        wait_s = limits.RETRY_FIRST_S
        while True:
            try:
                return await starter()
            except Retryable as error:
                self.health.failed(error)
                self.log.warning("start is waiting", error=str(error))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, limits.RETRY_LAST_S)

    async def _guard(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        try:
            await body()
            raise Broken(f"loop {name} ended")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.log.error("loop failed", loop=name, error=str(error), exc_info=error)
            self._fail(name, error)

    def _fail(self, what: str, error: BaseException) -> None:
        """End the process; whoever supervises starts it again."""
        self.health.failed(error)
        self.health.stop(f"{what}: {error}")
        self._fatal = self._fatal or error
        self.app.exit()

    async def _end_loops(self) -> None:
        """Before the connection goes: what the loops would meet then is no error."""
        self._stopping = True
        await end(*self._tasks)

    async def _stop(self) -> None:
        self.health.ready = False
        await self._end_loops()
        if self.broker._connection is not None:  # the start failed, FastStream has not stopped it
            await self.broker.stop()
        for stopper in reversed(self._stoppers):
            result = stopper()
            if result is not None:
                await result
        self.log.info("stopped")

    async def _on_closed(self) -> None:
        """nats-py tries again when a connection is lost, never when the broker ended it with an error."""
        if self._stopping:
            return
        nc = self.broker._connection
        why = (nc.last_error if nc else None) or "no reason was given"
        error = Broken(f"the connection to the broker was closed for good: {why}")
        self.log.error("closed", error=str(error))
        self._fail("connection", error)

    async def _on_error(self, error: Exception) -> None:
        self.health.failed(error)
        self.log.warning("broker", error=f"{type(error).__name__}: {error}")

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, RequestFailed | Poison | SchemaError):
            return Failure(error.code, error.message, error.field)
        if isinstance(error, Retryable):
            return Failure("unavailable", str(error))
        self.log.error("request failed", error=str(error), exc_info=error)
        self.health.failed(error)
        return Failure("internal", "the request failed by a fault of ours; it was logged")


def _secured(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `nats.connect` as FastStream's broker wants them: it has words of its own for who we are."""
    tls = options.pop("tls", None)
    if "user" in options:
        options["security"] = NatsUserPassword(options.pop("user"), options.pop("password"), ssl_context=tls)
    elif "nkeys_seed" in options:
        options["security"] = NatsNKey(options.pop("nkeys_seed"), ssl_context=tls)
    elif "user_credentials" in options:
        options["security"] = NatsCredentials(options.pop("user_credentials"), ssl_context=tls)
    elif tls is not None:
        options["security"] = NatsSecurity(ssl_context=tls)
    return options


async def _raw(msg: Any) -> Any:
    """The whole message: without `apply_types` FastStream hands the handler what the decoder returns, nothing else."""
    return msg
