"""Files of shared counts: written, read and merged. JSON, readable by whoever is to trust what leaves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from msgspec import Meta

from jetmem.console.calling import fail
from jetmem.domain.procedures import federation
from jetmem.domain.procedures.federation import Export, How, Merged
from jetmem_schemas.subjects import ID_PATTERN

FORMAT: Final = 1
#: Some hundred sources of as many procedures as an export holds.
_FILE_BYTES_MAX: Final = 200_000_000
SOURCES_MAX: Final = 10_000


class Combined(msgspec.Struct, frozen=True):
    """What all sources say of a procedure: `runs` after clipping, from so many `sources`."""

    id: str
    runs: float
    successes: float
    rate: float
    sources: int


class _Any(msgspec.Struct):
    format: int | None = None


class _Sources(msgspec.Struct):
    """What is read of a file; what else `merge` writes is for people's programs, and made anew."""

    sources: Annotated[list[Export], Meta(max_length=SOURCES_MAX)]


class BadFile(ValueError):
    """A file that cannot be merged; its words say why."""


def check_asked(source: str, epsilon: float | None) -> None:
    """End with a usage error if an export would be refused, before anyone is asked for it."""
    if not re.fullmatch(ID_PATTERN, source):
        fail(f"bad_field: --source must match [A-Za-z0-9_.:-]{{1,64}}; not {source}", 2)
    least = federation.EPSILON_MIN
    if epsilon is not None and not least <= epsilon < math.inf:
        fail(f"bad_field: --epsilon must be at least {least:g}; not {epsilon:g}. Without it counts are exact", 2)


def text_of(merged: Merged, how: How | None = None) -> str:
    """A file's text; with `how` also what the sources say together."""
    told = combined(merged, how) if how else []
    body = {"format": FORMAT, "sources": list(merged.sources.values())}
    return msgspec.json.encode(body | ({"how": how, "combined": told} if how else {})).decode()


def combined(merged: Merged, how: How) -> list[Combined]:
    """What the sources say together, by name."""
    return [
        Combined(name, each.runs, each.successes, each.successes / each.runs, _known(merged, name))
        for name, each in federation.combined(merged, how).items()
    ]


def _known(merged: Merged, name: str) -> int:
    return sum(name in each.procedures and each.procedures[name].runs > 0 for each in merged.sources.values())


def decoded(raw: bytes) -> Merged:
    """A file's sources.

    Raises:
        BadFile: It is no such file, of another format, or holds what no export does.
    """
    try:
        seen = msgspec.json.decode(raw, type=_Any).format
        if seen is None:
            raise BadFile("is not what `jetmem procedures export` or `merge` writes: it has no format")
        if seen != FORMAT:
            raise BadFile(f"is of format {seen}; this version of jetmem reads format {FORMAT}")
        sources = msgspec.json.decode(raw, type=_Sources).sources
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadFile(f"cannot be read: {error}") from error
    return reduce(federation.merge, map(federation.taken, sources), Merged())


def merged(files: Iterable[Path]) -> tuple[Merged, list[str]]:
    """All files' sources, the latest of each, and a sentence about each that was replaced."""
    whole = Merged()
    replaced: list[str] = []
    for path in files:
        read = _read(path)
        after = federation.merge(whole, read)
        for name in sorted(whole.sources.keys() & read.sources.keys()):
            kept = after.sources[name]
            other = whole.sources[name] if kept == read.sources[name] else read.sources[name]
            if kept.version != other.version:
                replaced.append(f"{name}: entry {kept.version:,} counts, {other.version:,} is older")
            elif kept != other:
                replaced.append(f"{name}: two exports up to entry {kept.version:,} differ; one of them counts")
        whole = after
    return whole, replaced


def _read(path: Path) -> Merged:
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise BadFile(f"is larger than {_FILE_BYTES_MAX:,} bytes")
        return decoded(path.read_bytes())
    except OSError as error:
        fail(f"{path} cannot be opened: {error.strerror or error}", 2)
    except BadFile as error:
        fail(f"{path} {error}")


def put(text: str, out: Path | None) -> None:
    """Print it, or write a file whole: one of the files that were merged may be written."""
    if out is None:
        typer.echo(text)
        return
    fresh = out.with_name(f".{out.name}.new")
    try:
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(out)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        fail(f"{out} cannot be written: {error.strerror or error}")
