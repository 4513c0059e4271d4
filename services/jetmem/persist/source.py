"""Is MEMORY still the stream that our checkpoint belongs to?"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jetmem.adapters.nats_connect import NOT_FOUND, ApiError, api
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import stream_info
from jetmem.persist.handler import Recorder
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.errors import Broken, Retryable
from jetmem_schemas import subjects

_ADVICE = "restore both from the same time, or start with JETMEM_PERSIST_ACCEPT_GAP=true if the loss is known"


class Source:
    """Checks before every consumer that nothing was lost between the checkpoint and the stream."""

    def __init__(self, shell: Shell, settings: PersistSettings, recorder: Recorder) -> None:
        self._shell = shell
        self._settings = settings
        self._recorder = recorder

    async def verify(self) -> None:
        """Compare the stream with the checkpoint; adopts the stream when the record is empty.

        Raises:
            Broken: The stream was replaced, restored from an older copy, or trimmed beyond the checkpoint.
            Retryable: The broker did not answer.
        """
        try:
            info = await stream_info(self._shell.nc, subjects.MEMORY)
        except ApiError as error:
            raise Retryable(f"MEMORY: {error}") from error
        checkpoint = self._recorder.checkpoint
        if not checkpoint.created:
            self._first(info)
            self._recorder.adopt(info["created"])
            return
        if checkpoint.created != info["created"]:
            raise Broken(
                f"MEMORY was replaced: made {info['created']}, the record is of {checkpoint.created}; {_ADVICE}"
            )
        if self._settings.accept_gap or checkpoint.seq == 0:
            return
        if info["state"]["last_seq"] < checkpoint.seq:
            last = info["state"]["last_seq"]
            raise Broken(
                f"MEMORY ends at {last}, before the checkpoint {checkpoint.seq}: an older copy was restored; {_ADVICE}"
            )
        await self._own_message(checkpoint.seq, checkpoint.at, checkpoint.erased)

    def _first(self, info: dict[str, Any]) -> None:
        first = info["state"]["first_seq"]
        if first > 1 and not self._settings.accept_gap:
            raise Broken(f"the record is empty, but MEMORY begins at {first}: earlier messages are lost; {_ADVICE}")

    async def _own_message(self, seq: int, at: int, erased: bool) -> None:
        try:
            found = await api(self._shell.nc, subjects.raw_stream_api("STREAM.MSG.GET", subjects.MEMORY), {"seq": seq})
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise Retryable(f"MEMORY: {error}") from error
            if erased:
                return
            raise Broken(
                f"MEMORY no longer holds the checkpoint's message {seq}: it was trimmed by others; {_ADVICE}"
            ) from error
        if go_epoch_ms(found["message"]["time"]) != at:
            raise Broken(f"MEMORY holds another message at the checkpoint {seq}: an older copy was restored; {_ADVICE}")


def go_epoch_ms(text: str) -> int:
    """Milliseconds of a Go timestamp, cut, not rounded; it has up to nine decimals."""
    head, _, fraction = text.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(head + "+00:00").timestamp())
    return seconds * 1000 + int((fraction + "000")[:3])
