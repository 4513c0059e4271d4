"""Settings of tenants: one bucket, changed by compare-and-set, watched by the stages that need them.

The bucket is a stream that stages make and check like any other (`nats_streams.ensure`). A stage knows it whole before
its loops begin, and hears of each change. A key is never missing from a bucket that is whole, since what is deleted
leaves a mark: what was known of a tenant and is not there was lost with the broker's data, and is put back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from nats.aio.client import Client

from jetmem.adapters.nats_buckets import put_if
from jetmem.adapters.nats_connect import NOT_FOUND, ApiError
from jetmem.adapters.nats_reader import Delivered, OrderedReader
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure, last_message, stream_info
from jetmem.runtime import limits
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem_schemas import subjects, tenants
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.tenants import TenantSettings

#: Who is overtaken so often is one of too many.
_TRIES: Final = 20
_NOTHING: Final = TenantSettings()
_AWAY: Final = "the settings of tenants cannot be had: {}"
_MISSING: Final = (
    "there are no settings of tenants yet: index, summarize and query make the place for them when they start"
)


class Told(NamedTuple):
    """What the bucket says of a tenant, or under `tenants.EVERYONE` of all; `value` is b"" for nothing."""

    tenant: str
    value: bytes
    settings: TenantSettings


class Bucket:
    """Reads and changes settings, for commands."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc

    async def get(self, tenant: str) -> tuple[bytes, int]:
        """Value and revision: b"" and 0 if nothing was ever set.

        Raises:
            RequestFailed: `unavailable`.
        """
        try:
            found = await last_message(self._nc, subjects.TENANTS, subjects.tenant_settings(tenant))
        except ApiError as error:
            raise RequestFailed("unavailable", _why(error)) from error
        except Retryable as error:
            raise RequestFailed("unavailable", _AWAY.format(error)) from error
        return (b"", 0) if found is None else (_value(found.headers, found.data), found.seq)

    async def change(self, tenant: str, changes: Mapping[str, Any]) -> tuple[bytes, int]:
        """Change some fields whoever else changes others; the value and its revision.

        Raises:
            RequestFailed: `unavailable`; `busy` if others are always faster.
            SchemaError: What is there was not written by us.
        """
        for _ in range(_TRIES):
            value, revision = await self.get(tenant)
            made = tenants.changed(value, changes)
            if made == value:
                return value, revision
            seq = await put(self._nc, tenant, made, revision)
            if seq is not None:
                return made, seq
        raise RequestFailed("busy", f"the settings of {tenant} are changed by others all the time; try again")

    async def every(self) -> dict[str, bytes]:
        """What is set, by tenant; under `tenants.EVERYONE` what holds for all.

        Raises:
            RequestFailed: `unavailable`.
        """
        try:
            info = await stream_info(self._nc, subjects.TENANTS)
            reader = OrderedReader(self._nc, subjects.TENANTS, 0)
            found: dict[str, bytes] = {}
            left = int(info["state"]["messages"])
            while left > 0 and (batch := await reader.fetch()):
                found |= {subjects.settings_tenant(each.subject): _value(each.headers, each.data) for each in batch}
                left = batch[-1].pending
            await reader.close()
        except ApiError as error:
            raise RequestFailed("unavailable", _why(error)) from error
        except Retryable as error:
            raise RequestFailed("unavailable", _AWAY.format(error)) from error
        return {tenant: value for tenant, value in sorted(found.items()) if tenant and value}


def _why(error: ApiError) -> str:
    return _MISSING if error.code == NOT_FOUND else _AWAY.format(error)


async def put(nc: Client, tenant: str, value: bytes, revision: int) -> int | None:
    """Set a value if its revision is still this one (0: it has none); the new revision, None if it was overtaken.

    Raises:
        RequestFailed: `unavailable`; it may be set nevertheless.
    """
    try:
        return await put_if(nc, subjects.TENANTS, subjects.tenant_settings(tenant), value, revision)
    except RequestFailed as error:
        raise RequestFailed(error.code, _AWAY.format(error.message)) from error


def _value(headers: Mapping[str, str], data: bytes) -> bytes:
    """b"" of a mark that something was deleted."""
    return b"" if "KV-Operation" in headers or "Nats-Marker-Reason" in headers else data


class TenantWatch:
    """Knows the settings of all tenants: from before the first loop begins, through every restart of the broker."""

    def __init__(
        self,
        shell: Shell,
        *,
        known: Mapping[str, bytes] | None = None,
        told: Callable[[Sequence[Told]], Awaitable[None]] | None = None,
    ) -> None:
        """Build it, then `wire`.

        Args:
            shell: Of the process.
            known: Values by tenant as of the last process; what of them the bucket lacks is put back.
            told: Hears of what is new, before `of` says so.
        """
        self._shell = shell
        self._told = told
        self._held: dict[str, TenantSettings] = {}
        self._values: dict[str, bytes] = dict(known or {})
        self._seen: set[str] = set()
        self._reader: OrderedReader | None = None
        self._created = ""
        self._messages = 0
        self._whole = False
        for tenant, value in self._values.items():
            self._held[tenant] = tenants.decode_known(value)

    def wire(self) -> None:
        """Add the start and the loop to the shell."""
        self._shell.on_start(self._load)
        self._shell.loop("tenants", self._follow)

    def of(self, tenant: str) -> TenantSettings:
        """What is set of a tenant."""
        return self._held.get(tenant, _NOTHING)

    def zone(self, tenant: str) -> ZoneInfo | None:
        """A tenant's own time zone; None if it has none."""
        name = self.of(tenant).timezone
        return tenants.zone_of(name) if name else None

    async def _load(self) -> None:
        self._reader = OrderedReader(self._shell.nc, subjects.TENANTS, 0, verify=self._verify)
        while not self._whole:
            await self._some(self._reader)

    async def _follow(self) -> None:
        reader = self._reader
        while reader is not None:
            try:
                await self._some(reader)
            except Retryable as error:
                self._shell.health.failed(error)
                await asyncio.sleep(limits.RETRY_FIRST_S)

    async def _verify(self) -> int | None:
        """Before each consumer: the bucket is there as it must be; read from its beginning if it is another one."""
        info = await ensure(self._shell.nc, subjects.TENANTS, self._shell.common)
        state = info["state"]
        position = self._reader.position if self._reader else 0
        if info["created"] == self._created and int(state["last_seq"]) >= position:
            return None
        self._created = info["created"]
        self._messages = int(state["messages"])
        self._seen.clear()
        self._whole = False
        return 0

    async def _some(self, reader: OrderedReader) -> None:
        batch = await reader.fetch(wait=self._whole)
        if not batch and not self._whole and self._messages:
            batch = await reader.fetch()
        position = batch[0].seq - 1 if batch else reader.position
        try:
            await self._take(batch)
        except BaseException:
            reader.rewind(position)
            raise
        if not self._whole and reader.alive and (not batch or batch[-1].pending == 0):
            await self._put_back()
            self._whole = True

    async def _take(self, batch: Sequence[Delivered]) -> None:
        news: dict[str, Told] = {}
        for each in batch:
            tenant = subjects.settings_tenant(each.subject)
            value = _value(each.headers, each.data)
            self._seen.add(tenant)
            try:
                if tenant and len(value) <= tenants.VALUE_BYTES_MAX:
                    news[tenant] = Told(tenant, value, tenants.decode(value))
            except SchemaError as error:  # what was known stays
                self._shell.health.failed(error)
                self._shell.log.warning("settings not understood", tenant=tenant, error=error.message)
        fresh = [one for one in news.values() if one.value != self._values.get(one.tenant, b"")]
        if fresh and self._told is not None:
            await self._told(fresh)
        for one in fresh:
            if one.value:
                self._values[one.tenant] = one.value
            else:
                self._values.pop(one.tenant, None)
            self._held[one.tenant] = one.settings

    async def _put_back(self) -> None:
        """What is known and was lost with the broker's data."""
        for tenant in sorted(set(self._values) - self._seen):
            self._shell.log.warning("settings of a tenant were lost and are put back", tenant=tenant)
            try:
                await put(self._shell.nc, tenant, self._values[tenant], 0)
            except RequestFailed as error:
                raise Retryable(error.message) from error
