"""What tenants set, as this store remembers it: the last that was heard holds, whatever becomes of the bucket.

A tenant's zone and that its nodes must be filed anew are one write, so that a kill in the middle finishes on start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import msgspec

from jetmem.runtime.store import Store
from jetmem.summarize.sweeps import Sweeps
from jetmem.summarize.waiting import Waiting
from jetmem_schemas import tenants
from jetmem_schemas.subjects import partition_of
from jetmem_schemas.tenants import EVERYONE, TenantSettings

#: Rows in `meta`: a tenant's settings as the bucket has them; the zone of those who have no own.
_SET: Final = b"set:"
_DEFAULT: Final = b"default zone"
#: Zones of tenants as a setting named them once, `{tenant: zone}`.
_ZONES: Final = b"zones"
_NOTHING: Final = TenantSettings()


class Setting(Protocol):
    """What the bucket says of a tenant (`adapters.tenant_settings.Told`)."""

    @property
    def tenant(self) -> str:
        """Whose."""

    @property
    def value(self) -> bytes:
        """As it is stored; b"" for nothing."""

    @property
    def settings(self) -> TenantSettings:
        """The same, decoded."""


class Tenants:
    """Read from any thread; changed on the writer thread."""

    def __init__(self, store: Store, parts: Iterable[int], timezone: str) -> None:
        self._store = store
        self._parts = frozenset(parts)
        self._default = tenants.zone_of(timezone)
        self._convert()
        self._held = {tenant: tenants.decode_known(value) for tenant, value in self.values().items()}

    def values(self) -> dict[str, bytes]:
        """What is set of ours and of everyone, as the bucket had it last; of others it may be long out of date."""
        found = {key.removeprefix(_SET).decode(): value for key, value in self._store.scan("meta", _SET)}
        return {tenant: value for tenant, value in found.items() if self._is_ours(tenant)}

    def _is_ours(self, tenant: str) -> bool:
        return tenant == EVERYONE or partition_of(tenant) in self._parts

    def _convert(self) -> None:
        """Zones that came from a setting are what their tenants set."""
        raw = self._store.get("meta", _ZONES)
        if raw is None:
            return
        batch = self._store.batch()
        for tenant, zone in msgspec.msgpack.decode(raw, type=dict[str, str]).items():
            if tenant:
                batch.put("meta", _SET + tenant.encode(), tenants.changed(b"", {"timezone": zone}))
            else:
                batch.put("meta", _DEFAULT, zone.encode())
        batch.delete("meta", _ZONES)
        self._store.write(batch, sync=True)

    def zone(self, tenant: str) -> ZoneInfo:
        """Whose days a tenant's days are."""
        held = self._held.get(tenant)
        return tenants.zone_of(held.timezone) if held is not None and held.timezone else self._default

    def paused(self, tenant: str) -> bool:
        """Whether its nodes are not to be made, or nobody's."""
        return any(self._held[each].toc_paused for each in (tenant, EVERYONE) if each in self._held)

    def begin(self, sweeps: Sweeps, everyone: Iterable[str]) -> None:
        """On start: another default than last time moves the days of whoever has no zone of his own."""
        noted = self._store.get("meta", _DEFAULT)
        if noted == self._default.key.encode():
            return
        batch = self._store.batch()
        if noted is not None:
            for tenant in everyone:
                if not self._held.get(tenant, _NOTHING).timezone:
                    sweeps.begin(batch, tenant)
        batch.put("meta", _DEFAULT, self._default.key.encode())
        self._store.write(batch, sync=True)

    def take(self, news: Sequence[Setting], sweeps: Sweeps, waiting: Waiting) -> None:
        """What was set, or lost its setting."""
        mine = [one for one in news if self._is_ours(one.tenant)]
        if not mine:
            return
        batch = self._store.batch()
        for one in mine:
            if one.settings.timezone != self._held.get(one.tenant, _NOTHING).timezone and one.tenant != EVERYONE:
                sweeps.begin(batch, one.tenant)
            if one.value:
                batch.put("meta", _SET + one.tenant.encode(), one.value)
            else:
                batch.delete("meta", _SET + one.tenant.encode())
        self._store.write(batch, sync=True)
        for one in mine:
            self._held[one.tenant] = one.settings
        waiting.resume()
