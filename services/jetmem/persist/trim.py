"""MEMORY is trimmed by persist alone: below its checkpoint, outside the kept window."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from jetmem.adapters.nats_connect import ApiError, api, server_id
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import erase, stream_info
from jetmem.domain import keys
from jetmem.persist.handler import Recorder
from jetmem.persist.moments import first_at
from jetmem.persist.record import TRIMMED, TRIMMING, Trimming
from jetmem.persist.settings import PersistSettings
from jetmem.runtime import limits, metrics
from jetmem.runtime.errors import Retryable
from jetmem.runtime.store import Work
from jetmem_schemas import subjects

_HOUR_MS = 3_600_000
_ERASED_AT_ONCE = 128
_encode = msgspec.msgpack.Encoder().encode


class TrimRequest(msgspec.Struct, frozen=True):
    """Trim now; with `dry_run` only say what would go."""

    dry_run: bool = False


class OtherShards(Protocol):
    """The shards that read MEMORY beside us."""

    def first(self) -> bool:
        """Whether trimming is for us to do."""

    async def safe(self) -> int:
        """Up to where all partitions are on disk that do not follow our own checkpoint; large if none.

        Raises:
            Retryable: One does not say.
        """

    async def note(self, trimmed: int, trimming: Trimming) -> None:
        """Have every other shard note what a trim is about to do, or has done.

        Raises:
            Retryable: One does not answer.
        """


class Trim:
    """A timer, and `jetmem trim`."""

    def __init__(
        self,
        shell: Shell,
        settings: PersistSettings,
        recorder: Recorder,
        in_writer: Work,
        shards: OtherShards,
    ) -> None:
        self._shell = shell
        self._settings = settings
        self._recorder = recorder
        self._in_writer = in_writer
        self._shards = shards
        self._one = asyncio.Lock()  # the timer and a request would write over what the other noted

    async def run(self) -> None:
        """Consider trimming for ever."""
        while True:
            await asyncio.sleep(self._settings.trim_every_s)
            try:
                if self._shards.first():
                    await self.once(dry_run=False)
            except (Retryable, ApiError) as error:
                self._shell.health.failed(error)

    async def answer(self, part: int, request: TrimRequest) -> dict[str, Any]:
        """Trim on request."""
        return await self.once(dry_run=request.dry_run)

    async def once(self, *, dry_run: bool) -> dict[str, Any]:
        """Remove recorded messages that are older than the kept window, or more if MEMORY is nearly full.

        Not before it is worth it (`trim_bytes_min`): what could share a file with what is kept is erased one by one.

        The checkpoint's own message stays: it proves on the next start that nothing was lost.

        Returns:
            first, last, checkpoint (sequences), bytes, keep_from (first sequence kept), removed (messages), dry_run.
        """
        info = await stream_info(self._shell.nc, subjects.MEMORY)
        state, checkpoint = info["state"], min(self._recorder.synced.seq, await self._shards.safe())
        keep_from = await self._keep_from(state, checkpoint, info["config"].get("max_bytes", -1))
        removed = max(0, keep_from - state["first_seq"])
        if removed and not dry_run:
            async with self._one:
                await self._remove(keep_from, state["first_seq"])
            metrics.trimmed.set(keep_from)
            self._shell.log.info("trimmed MEMORY", keep_from=keep_from, removed=removed)
        return {
            "first": state["first_seq"], "last": state["last_seq"], "checkpoint": checkpoint, "bytes": state["bytes"],
            "keep_from": max(keep_from, state["first_seq"]), "removed": removed, "dry_run": dry_run,
        }  # fmt: skip

    async def _remove(self, keep_from: int, first: int) -> None:
        """Erase, then drop whole files; noted around it, because what a killed broker left half erased is not known.

        Such a note stays until a later trim has dropped its files.
        """
        record = self._recorder.record
        before, server = record.trimming(), server_id(self._shell.nc)
        doubt = before if before.server not in ("", server) else Trimming()
        asked = Trimming(doubt.server or server, max(doubt.upto, keep_from))
        await self._note(record.trimmed(), asked)
        clear = await self._erase_below(keep_from, first)
        await api(
            self._shell.nc, subjects.raw_stream_api("STREAM.PURGE", subjects.MEMORY), {"seq": keep_from}, timeout_s=30
        )
        left = Trimming() if clear >= doubt.upto else doubt
        await self._note(max(record.trimmed(), clear), left)

    async def _note(self, trimmed: int, trimming: Trimming) -> None:
        await self._in_writer(lambda: self._put(trimmed, trimming))
        await self._shards.note(trimmed, trimming)

    def _put(self, trimmed: int, trimming: Trimming) -> None:
        store = self._recorder.record.store
        batch = store.batch()
        batch.put("meta", TRIMMED, keys.u64(trimmed))
        batch.put("meta", TRIMMING, _encode(trimming))
        store.write(batch, sync=True)

    async def _erase_below(self, keep_from: int, first: int) -> int:
        """Erase what could share a file with the first message kept.

        Trimming drops whole files; in the one that it cuts through, the words would stay readable and out of the
        reach of a later forget.

        Returns:
            Below which no file has anything once the others are dropped.
        """
        passed = 0
        upto = keep_from
        while upto > first:
            chunk = range(max(first, upto - _ERASED_AT_ONCE), upto)
            sizes = await asyncio.gather(*(erase(self._shell.nc, subjects.MEMORY, seq) for seq in chunk))
            for seq, size in zip(reversed(chunk), reversed(sizes), strict=True):
                passed += size
                if passed >= limits.STREAM_FILE_BYTES_MAX:
                    return seq
            upto = chunk.start
        return 0

    async def _keep_from(self, state: dict[str, Any], checkpoint: int, bytes_max: int) -> int:
        if not state["messages"]:
            return int(state["first_seq"])
        oldest_kept = self._shell.clock.now_ms() - int(self._settings.keep_hours * _HOUR_MS)
        keep_from = await first_at(self._shell.nc, subjects.MEMORY, oldest_kept, state["first_seq"], checkpoint)
        mean = state["bytes"] / state["messages"]
        too_full = bytes_max > 0 and state["bytes"] > self._settings.full_share * bytes_max
        if (keep_from - state["first_seq"]) * mean < self._settings.trim_bytes_min:
            keep_from = state["first_seq"]
        if too_full:
            # down to half of the share, by the mean size of a message; never beyond the checkpoint
            surplus = state["bytes"] - bytes_max * self._settings.full_share / 2
            share = surplus / state["bytes"]
            keep_from = max(keep_from, state["first_seq"] + int(share * (state["last_seq"] - state["first_seq"])))
        return min(keep_from, checkpoint)
