"""The table of owners, which shard of a stage has which partition: one value, changed by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from nats.aio.client import Client

from jetmem.adapters.nats_buckets import put_if
from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure, last_message
from jetmem.runtime.errors import Broken, RequestFailed, Retryable
from jetmem_schemas import subjects
from jetmem_schemas.owning import Owned, Owners

#: Who is overtaken so often is one of too many.
_TRIES: Final = 50
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Owned]).decode


class OwnersTable:
    """Reads and changes the table of one stage."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._subject = subjects.owners(shell.stage)

    async def prepare(self) -> None:
        """Make the bucket if it is not there.

        Raises:
            Broken, Retryable: As `nats_streams.ensure`.
        """
        await ensure(self._shell.nc, subjects.OWNERS, self._shell.common)

    async def read(self) -> Owners:
        """The table; empty if there is none.

        Raises:
            Retryable: The broker did not answer.
            Broken: What is there was not written by us.
        """
        return (await self._read())[0]

    async def change(self, how: Callable[[Owners], Owners]) -> Owners:
        """Replace the table by `how(table)`, whoever else changes it; `how` may be called again, with another table.

        Returns:
            The table as it is then.

        Raises:
            Retryable: The broker did not answer, or others are always faster; the change may have been made.
            Broken: What is there was not written by us.
        """
        for _ in range(_TRIES):
            table, revision = await self._read()
            made = how(table)
            if made == table:
                return table
            try:
                seq = await put_if(self._shell.nc, subjects.OWNERS, self._subject, _encode(made), revision)
            except RequestFailed as error:
                raise Retryable(f"the owners of partitions cannot be changed: {error.message}") from error
            if seq is not None:
                return made
        raise Retryable("the owners of partitions are changed by others all the time")

    async def _read(self) -> tuple[Owners, int]:
        return await read_owners(self._shell.nc, self._shell.stage)


async def read_owners(nc: Client, stage: str) -> tuple[Owners, int]:
    """The table of a stage and its revision; empty and 0 if there is none.

    Raises:
        Retryable: The broker did not answer, or there is no bucket yet.
        Broken: What is there was not written by us.
    """
    subject = subjects.owners(stage)
    try:
        found = await last_message(nc, subjects.OWNERS, subject)
    except ApiError as error:
        raise Retryable(f"the owners of partitions cannot be read: {error}") from error
    if found is None or not found.data:
        return [], 0 if found is None else found.seq
    try:
        table = _decode(found.data)
    except msgspec.DecodeError as error:
        raise Broken(f"the owners of partitions, {subject}, are not what jetmem wrote: {error}") from error
    if len(table) != subjects.PARTITIONS:
        raise Broken(f"the owners of partitions, {subject}, are {len(table)}, not {subjects.PARTITIONS}")
    return table, found.seq
