"""The client: one tenant's memory, over one connection."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, TypeVar

from msgspec import UNSET, UnsetType
from nats.aio.client import Client as Nats

from jetmem.client.batching import OnProgress, OnRefused, Publisher, Receipts
from jetmem.client.errors import NotStored, Refused
from jetmem.client.ids import Ids
from jetmem.client.link import Link, Options
from jetmem.client.outgoing import Outgoing, Prepared, prepare
from jetmem.client.publishing import Receipt, publish_one
from jetmem.client.questions import ANSWER_S, Questions
from jetmem.client.runs import AsyncRun, StepGiven, given_steps
from jetmem.client.sources import Batcher
from jetmem_schemas import subjects
from jetmem_schemas.errors import SchemaError

T = TypeVar("T")
#: Without an acknowledgement for so long, the event is handed back as `NotStored`: an agent can rather keep it than
#: hang. None tries for ever.
PUBLISH_TIMEOUT_S: Final = 60.0
LOCAL: Final = "nats://127.0.0.1:4222"
Timeout = float | UnsetType | None


class Client(Questions):
    """Publishes and asks as one tenant; made by `connect`. Use it from one event loop."""

    def __init__(
        self,
        link: Link,
        tenant: str,
        agent: str,
        *,
        publish_timeout_s: float | None,
        answer_s: float,
        read_your_writes: bool,
    ) -> None:
        super().__init__(link, tenant, read_your_writes=read_your_writes, answer_s=answer_s)
        self._agent = agent
        self._ids = Ids()
        self._publish_timeout_s = publish_timeout_s

    @property
    def tenant(self) -> str:
        """The tenant it acts as."""
        return self._tenant

    @property
    def nats(self) -> Nats:
        """The connection below, for subscriptions and whatever else this SDK does not cover."""
        return self._link.nc

    def as_tenant(self, tenant: str, agent: str | None = None) -> Client:
        """A client of another tenant over the same connection; closing either closes both.

        Raises:
            Refused: `tenant` or `agent` is no token.
        """
        check_tokens(tenant, agent or self._agent)
        return Client(
            self._link,
            tenant,
            agent or self._agent,
            publish_timeout_s=self._publish_timeout_s,
            answer_s=self._answer_s,
            read_your_writes=self._read_your_writes,
        )

    async def publish(
        self, text: str = "", *, session: str, agent: str | None = None, timeout_s: Timeout = UNSET, **fields: Any
    ) -> Receipt:
        """Publish one event and wait until it is on disk.

        Without an acknowledgement (time-out, no connection, MEMORY is full) it is sent again under the same id.

        Args:
            text: What was said.
            session: Session token.
            agent: Agent token; the client's by default.
            timeout_s: When to give up; the client's `publish_timeout_s` by default, None for never.
            fields: Other fields of `jetmem_schemas.events.Event`.

        Raises:
            NotStored: Gave up; it carries the event with its id, to be published later.
            Refused: It will never be stored; nothing was sent, or the broker does not allow it.
        """
        event = {"text": text, **fields} if text else dict(fields)
        return await self.publish_event(Outgoing(event=event, session=session, agent=agent), timeout_s=timeout_s)

    async def publish_event(self, out: Outgoing, *, timeout_s: Timeout = UNSET) -> Receipt:
        """Like `publish`, for any kind of message."""
        receipt = await publish_one(self._link, self._prepare(out), self._timeout(timeout_s))
        self._last_seq = max(self._last_seq, receipt.seq)
        return receipt

    async def publish_many(
        self,
        events: Iterable[Outgoing] | AsyncIterable[Outgoing],
        *,
        progress: OnProgress | None = None,
        on_refused: OnRefused | None = None,
        timeout_s: Timeout = UNSET,
    ) -> Receipts:
        """Publish many events in atomic batches, in the order given, and wait until all are on disk.

        Args:
            events: Taken as fast as they can be stored; at most some two batches are held.
            progress: Called with the ids of each batch once it is on disk.
            on_refused: Called for each event that will never be stored; the rest goes on. Without it the first such
                event ends the call, after what came before it is on disk.
            timeout_s: When to give up if nothing is acknowledged for so long.

        Raises:
            NotStored: Gave up; it carries what was taken from `events` and is not acknowledged.
            Refused: See `on_refused`.
        """
        publisher = Publisher(
            self._link, self._ids, timeout_s=self._timeout(timeout_s), on_progress=progress, on_refused=on_refused
        )
        batcher = Batcher(self._prepare, publisher.refused)
        try:
            async with aclosing(batcher.batches(events)) as batches:
                return await publisher.run(batches)
        except NotStored as error:
            error.pending += batcher.rest()
            raise
        finally:
            self._last_seq = max(self._last_seq, publisher.last_seq)

    async def report_run(
        self,
        task: str,
        *,
        success: bool,
        session: str,
        agent: str | None = None,
        steps: Iterable[StepGiven] = (),
        timeout_s: Timeout = UNSET,
        **fields: Any,
    ) -> Receipt:
        """Report one run that is over, and wait until it is on disk; acknowledged and retried like `publish`.

        Args:
            task: What was to be done, in words.
            success: Whether it was.
            session: Session token; runs that follow each other in one session are related.
            agent: Agent token; the client's by default.
            steps: Names of tools, or what `jetmem_schemas.events.Step` holds.
            timeout_s: When to give up; the client's `publish_timeout_s` by default, None for never.
            fields: Other fields of `jetmem_schemas.events.Run`, `procedure` and `context` among them.

        Raises:
            NotStored: Gave up; it carries the run with its id, to be published later.
            Refused: It will never be stored.
        """
        run = {"task": task, "success": success, "steps": given_steps(steps), **fields}
        out = Outgoing(event=_said(run), session=session, agent=agent, kind="run")
        return await self.publish_event(out, timeout_s=timeout_s)

    def run(
        self,
        task: str,
        *,
        session: str,
        procedure: str | None = None,
        context: Mapping[str, Any] | None = None,
        agent: str | None = None,
        timeout_s: Timeout = UNSET,
        **fields: Any,
    ) -> AsyncRun:
        """Record a run while it goes on: `async with client.run(…) as run:`; leaving it reports it, see `report_run`.

        An exception makes it fail, is told as its failure, and goes on. Leaving it returns once the run is on disk;
        where it is cancelled or interrupted, it is tried for no more than five seconds.

        Args:
            task: What is to be done, in words.
            session: Session token.
            procedure: Its name.
            context: Where; names and values that runs are compared by.
            agent: Agent token; the client's by default.
            timeout_s: When to give up reporting; the client's `publish_timeout_s` by default, None for never.
            fields: Other fields of `jetmem_schemas.events.Run`.

        Raises:
            Refused: It would never be stored; said before anything is done.
            NotStored: When it is left without an exception: not acknowledged in time; it carries the run. With one
                that goes on, `run.unreported` is this error.
        """
        known = {"task": task, "procedure": procedure, "context": context, **fields}
        return AsyncRun(self._prepare, self._publish_within, known, session, agent, self._timeout(timeout_s))

    async def define_procedure(
        self,
        name: str,
        *,
        description: str = "",
        steps: Iterable[StepGiven] = (),
        version: int | str | None = None,
        agent: str | None = None,
        timeout_s: Timeout = UNSET,
        **fields: Any,
    ) -> Receipt:
        """Say what a procedure is; the last definition under a name holds.

        Args:
            name: A token: `[A-Za-z0-9_-]{1,64}`.
            description: What it is for.
            steps: Names of tools, or what `jetmem_schemas.events.Step` holds.
            version: The author's own.
            agent: Agent token; the client's by default.
            timeout_s: When to give up; the client's `publish_timeout_s` by default, None for never.
            fields: Other fields of `jetmem_schemas.events.Procedure`.

        Raises:
            NotStored: Gave up; it carries the definition.
            Refused: It will never be stored.
        """
        try:
            subjects.token(name, "name")
        except SchemaError as error:
            raise Refused(error.code, error.message, error.field) from error
        told = {"description": description, "steps": given_steps(steps), "version": version, **fields}
        out = Outgoing(event=_said(told), session=name, agent=agent, kind="procedure")
        return await self.publish_event(out, timeout_s=timeout_s)

    async def _publish_within(self, out: Outgoing, timeout_s: float | None) -> Receipt:
        return await self.publish_event(out, timeout_s=timeout_s)

    async def undenied(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something with `nats`, the connection below, and have a refusal of the broker end it at once.

        Raises:
            PermissionDenied: This user may not publish or listen there; nats-py alone would wait for an answer.
        """
        return await self._link.undenied(work)

    async def close(self) -> None:
        """Close the connection. Nothing acknowledged is lost; calls under way raise."""
        await self._link.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _prepare(self, out: Outgoing) -> Prepared:
        return prepare(out, self._tenant, self._agent, self._ids)

    def _timeout(self, timeout_s: Timeout) -> float | None:
        return self._publish_timeout_s if isinstance(timeout_s, UnsetType) else timeout_s


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    """What was given a value."""
    return {name: value for name, value in fields.items() if value is not None and value != []}


def check_tokens(tenant: str, agent: str) -> None:
    """Refuse a tenant or agent that is no token.

    Raises:
        Refused: With the field.
    """
    try:
        subjects.token(tenant, "tenant")
        subjects.token(agent, "agent")
    except SchemaError as error:
        raise Refused(error.code, error.message, error.field) from error


class Connecting:
    """What `connect` returns: `await` it, or use it in `async with`."""

    def __init__(self, client: Client, link: Link) -> None:
        self._client = client
        self._link = link

    def __await__(self) -> Generator[Any, None, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def _open(self) -> Client:
        await self._link.open()
        return self._client


def connect(
    server: str = LOCAL,
    *,
    tenant: str,
    agent: str = "agent",
    creds: str | None = None,
    user: str | None = None,
    password: str | None = None,
    name: str | None = None,
    inbox_prefix: str = "",
    tls_ca: str | None = None,
    connect_timeout_s: float | None = 10.0,
    publish_timeout_s: float | None = PUBLISH_TIMEOUT_S,
    answer_s: float = ANSWER_S,
    read_your_writes: bool = False,
    inject: Callable[[dict[str, str]], object] | None = None,
) -> Connecting:
    """Connect to a broker as one tenant; once connected, it reconnects for ever.

    Args:
        server: URL, comma-separated for a cluster.
        tenant: Whose memory.
        agent: Token to publish as, unless said otherwise.
        creds: Path of the key that `jetmem tenant add` wrote, or of NATS credentials.
        user: User name, with `password`, instead of `creds`.
        password: Its password.
        name: Shown in the broker's monitoring.
        inbox_prefix: Where answers come; by default the one that a key's user may use, else `_INBOX`.
        tls_ca: Path of certificates that vouch for the broker's own, if this machine does not trust it anyway.
        connect_timeout_s: For the first connection; None waits for ever.
        publish_timeout_s: Without an acknowledgement for so long `publish` raises `NotStored`; None never.
        answer_s: How long a question may take, on top of `wait_ms`.
        read_your_writes: Every question waits for what this client published before.
        inject: Writes the caller's trace into headers, as `opentelemetry.propagate.inject` does: what is asked or
            published one by one then belongs to it. Batches of `publish_many` carry none.

    Raises:
        Refused: `tenant` or `agent` is no token.
    """
    check_tokens(tenant, agent)
    link = Link(
        Options(
            server=server,
            name=name or f"jetmem client {tenant}",
            creds=creds,
            user=user,
            password=password,
            inbox_prefix=inbox_prefix,
            tls_ca=tls_ca,
            connect_timeout_s=connect_timeout_s,
            inject=inject,
        )
    )
    client = Client(
        link,
        tenant,
        agent,
        publish_timeout_s=publish_timeout_s,
        answer_s=answer_s,
        read_your_writes=read_your_writes,
    )
    return Connecting(client, link)
