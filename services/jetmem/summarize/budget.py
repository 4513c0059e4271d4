"""Tokens that an endpoint may be asked for in an hour; kept in the store, so that a restart spends none twice."""

from __future__ import annotations

from typing import Final

import msgspec

from jetmem.runtime.clock import Clock
from jetmem.runtime.store import Store
from jetmem.summarize.rows import encode

_KEY: Final = b"tokens"
_HOUR_MS: Final = 3_600_000


class _Spent(msgspec.Struct, frozen=True, array_like=True):
    hour: int = 0
    tokens: int = 0


class Budget:
    """What may be used is taken before it is asked for; what was not used is given back. Writer thread only."""

    def __init__(self, store: Store, clock: Clock, tokens_hour: int) -> None:
        self._store = store
        self._clock = clock
        self.most = tokens_hour

    def take(self, tokens: int) -> bool:
        """Take so many from this hour's; False if there are not so many left."""
        spent = self._now()
        if spent.tokens + tokens > self.most:
            return False
        self._keep(_Spent(spent.hour, spent.tokens + tokens))
        return True

    def give_back(self, tokens: int, hour: int) -> None:
        """So many of those taken in this hour were not used, or with less than 0 so many more were."""
        spent = self._now()
        if spent.hour == hour:
            self._keep(_Spent(spent.hour, max(0, spent.tokens - tokens)))

    @property
    def hour(self) -> int:
        """The hour that is being spent; never an earlier one than before, whatever the clock does."""
        return self._now().hour

    def renewed_in_s(self) -> float:
        """Until the next hour begins."""
        return max(1.0, ((self.hour + 1) * _HOUR_MS - self._clock.now_ms()) / 1000)

    def _now(self) -> _Spent:
        raw = self._store.get("meta", _KEY)
        held = msgspec.msgpack.decode(raw, type=_Spent) if raw else _Spent()
        hour = self._clock.now_ms() // _HOUR_MS
        return _Spent(hour) if hour > held.hour else held

    def _keep(self, spent: _Spent) -> None:
        batch = self._store.batch()
        batch.put("meta", _KEY, encode(spent))
        self._store.write(batch, sync=True)
