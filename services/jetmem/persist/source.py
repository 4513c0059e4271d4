"""Whether MEMORY is still the stream that our checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jetmem.adapters.nats_connect import NOT_FOUND, ApiError, api
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import stream_info
from jetmem.persist.handler import Recorder
from jetmem.persist.moments import go_epoch_ms
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.store import Work
from jetmem_schemas import subjects

_ADVICE = "restore both from the same time, or start with JETMEM_PERSIST_ACCEPT_GAP=true if the loss is known"


class Source:
    """Checks before every consumer that nothing was lost between the checkpoint and the stream."""

    def __init__(
        self,
        shell: Shell,
        settings: PersistSettings,
        recorder: Recorder,
        in_writer: Work,
        owns: Callable[[], bool] = lambda: True,
    ) -> None:
        self._shell = shell
        self._settings = settings
        self._recorder = recorder
        self._in_writer = in_writer
        self._owns = owns

    async def verify(self) -> int:
        """Compare the stream with the checkpoint; adopts the stream when the record is empty.

        With `accept_gap`, a stream that does not fit is read again from its first message: ids make what is
        recorded already a repeat.

        Returns:
            The sequence to read on after.

        Raises:
            Broken: The stream was removed, replaced, restored from an older copy, or trimmed beyond the checkpoint.
            Retryable: The broker did not answer.
        """
        try:
            info = await stream_info(self._shell.nc, subjects.MEMORY)
        except ApiError as error:
            if error.code == NOT_FOUND:
                raise Broken(f"MEMORY was removed from the broker; {_ADVICE}") from error
            raise Retryable(f"MEMORY: {error}") from error
        try:
            if self._recorder.synced.created:
                await self._compare(info)
            elif not self._owns():  # a new shard: what it will have comes with where it is to be read on
                await self._in_writer(partial(self._recorder.begin_at, info["created"], info["state"]["last_seq"]))
            else:
                self._first(info)
                await self._in_writer(partial(self._recorder.adopt, info["created"]))
        except Broken as error:
            if not self._settings.accept_gap:
                raise
            self._shell.log.warning("gap accepted", error=str(error))
            await self._in_writer(partial(self._recorder.adopt, info["created"]))
        return self._recorder.synced.seq

    async def _compare(self, info: dict[str, Any]) -> None:
        checkpoint = self._recorder.synced
        if checkpoint.created != info["created"]:
            raise Broken(
                f"MEMORY was replaced: made {info['created']}, the record is of {checkpoint.created}; {_ADVICE}"
            )
        if checkpoint.seq == 0:
            return self._first(info)
        if info["state"]["last_seq"] < checkpoint.seq:
            last = info["state"]["last_seq"]
            raise Broken(
                f"MEMORY ends at {last}, before the checkpoint {checkpoint.seq}: an older copy was restored; {_ADVICE}"
            )
        if checkpoint.erased:
            return self._erased(checkpoint.seq, info["state"]["first_seq"])
        at = await self._time_of(checkpoint.seq)
        if at is None:
            return await self._missing(checkpoint.seq, checkpoint.at, info["state"]["first_seq"])
        return _same(checkpoint.seq, at == checkpoint.at)

    def _first(self, info: dict[str, Any]) -> None:
        first = info["state"]["first_seq"]
        if first > 1:
            raise Broken(f"the record is empty, but MEMORY begins at {first}: earlier messages are lost; {_ADVICE}")

    def _erased(self, seq: int, first: int) -> None:
        if first > seq + 1:
            raise Broken(f"MEMORY begins at {first}, beyond the checkpoint {seq}: it was trimmed by others; {_ADVICE}")

    async def _missing(self, seq: int, at: int, first: int) -> None:
        """The checkpoint's message is not held. Trimmed away, it may have taken unread ones with it.

        One that was erased by itself took none: a store that was put back from a copy, say, lies before forgets that
        were carried out since. The nearest one held before it then tells whether this is the same stream: one that was
        restored from an older copy, and went on, has a younger one there.
        """
        if first > seq:
            raise Broken(f"MEMORY no longer holds the checkpoint's message {seq}: it was trimmed by others; {_ADVICE}")
        step = 1
        while True:
            before = max(seq - step, first)
            found = await self._time_of(before)
            if found is not None or before == first:
                return _same(seq, found is not None and found <= at)
            step *= 2

    async def _time_of(self, seq: int) -> int | None:
        """Broker time of a message, epoch ms; None if it is not held."""
        try:
            found = await api(self._shell.nc, subjects.raw_stream_api("STREAM.MSG.GET", subjects.MEMORY), {"seq": seq})
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise Retryable(f"MEMORY: {error}") from error
            return None
        return go_epoch_ms(found["message"]["time"])


def _same(seq: int, same: bool) -> None:
    if not same:
        raise Broken(f"MEMORY holds another message at the checkpoint {seq}: an older copy was restored; {_ADVICE}")
