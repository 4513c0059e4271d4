"""`with jetmem.client.run(…)`: runs of programs without asyncio. Each connects for itself, once it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgspec

from jetmem.client.errors import ClientError, NotStored, Unavailable
from jetmem.client.ids import Ids
from jetmem.client.link import check_server
from jetmem.client.outgoing import Outgoing, prepare
from jetmem.client.publishing import Receipt
from jetmem.client.runs import RunRecorder, patience_s
from jetmem.client.sdk import LOCAL, PUBLISH_TIMEOUT_S, check_tokens, connect


class _Where(msgspec.Struct, frozen=True, kw_only=True):
    """How its report is sent."""

    server: str
    tenant: str
    agent: str
    creds: str | None
    user: str | None
    password: str | None
    publish_timeout_s: float | None


class PlainRun(RunRecorder):
    """One run, made by `run`; use it in `with`."""

    def __init__(self, where: _Where, fields: Mapping[str, Any], session: str) -> None:
        ids = Ids()
        super().__init__(lambda out: prepare(out, where.tenant, where.agent, ids), fields, session, where.agent)
        self._where = where

    def __enter__(self) -> PlainRun:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._begin()
            return self
        raise RuntimeError("an event loop is running here: use `async with` and the run of a connected client")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.receipt = asyncio.run(self._send(self._over(error), patience_s(self._where.publish_timeout_s, error)))
        except ClientError as failure:
            self._unstored(failure, error)

    async def _send(self, out: Outgoing, timeout_s: float | None) -> Receipt:
        where = self._where
        connecting = connect(
            where.server,
            tenant=where.tenant,
            agent=where.agent,
            creds=where.creds,
            user=where.user,
            password=where.password,
            connect_timeout_s=timeout_s,
            publish_timeout_s=timeout_s,
        )
        try:
            async with connecting as client:
                return await client.publish_event(out)
        except Unavailable as error:
            raise NotStored(error.message, [out]) from error


def run(
    task: str,
    *,
    tenant: str,
    session: str,
    agent: str = "agent",
    procedure: str | None = None,
    context: Mapping[str, Any] | None = None,
    server: str = LOCAL,
    creds: str | None = None,
    user: str | None = None,
    password: str | None = None,
    publish_timeout_s: float | None = PUBLISH_TIMEOUT_S,
    **fields: Any,
) -> PlainRun:
    """Like `Client.run`, in a plain `with` and without a client; leaving it returns once the run is on disk.

    Args:
        task: What is to be done, in words.
        tenant: Whose memory.
        session: Session token.
        agent: Agent token.
        procedure: Its name.
        context: Where; names and values that runs are compared by.
        server: URL, comma-separated for a cluster.
        creds: Path of a NATS credentials file.
        user: User name, with `password`, instead of `creds`.
        password: Its password.
        publish_timeout_s: When to give up, for the connection and for the acknowledgement; None never.
        fields: Other fields of `jetmem_schemas.events.Run`.

    Raises:
        Refused: It would never be stored, or `server` is no address of a broker.
        NotStored: When it is left: not acknowledged in time; it carries the run.
    """
    check_tokens(tenant, agent)
    check_server(server)
    where = _Where(
        server=server,
        tenant=tenant,
        agent=agent,
        creds=creds,
        user=user,
        password=password,
        publish_timeout_s=publish_timeout_s,
    )
    return PlainRun(where, {"task": task, "procedure": procedure, "context": context, **fields}, session)
