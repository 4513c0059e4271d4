"""NATS service discovery (ADR-32): who we are, what we answer, with which schemas, how it goes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from jetmem.runtime.clock import Clock
from jetmem_schemas import subjects
from jetmem_schemas.events import rfc3339
from jetmem_schemas.requests import VERBS

NAME: Final = "jetmem"
QUEUE: Final = "query"
_TYPE: Final = "io.nats.micro.v1."
_DESCRIPTION: Final = "memory for AI agents: ask what was said, when, and by whom"
_NS: Final = 1_000_000_000
#: Before a build has set one; ADR-32 wants a semantic version.
_NO_VERSION: Final = "0.0.0"
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    ns: int = 0


class Tally:
    """Counts of one process, by verb; `unknown` for refused subjects, which no endpoint shows."""

    def __init__(self) -> None:
        self._by_verb: dict[str, _Counts] = {}

    def count(self, verb: str, code: str, seconds: float) -> None:
        """One request was answered. Codes only: an error's words may hold a tenant's."""
        counts = self._by_verb.setdefault(verb, _Counts())
        counts.requests += 1
        counts.ns += int(seconds * _NS)
        if code != "ok":
            counts.errors += 1
            counts.last_error = code

    def of(self, verb: str) -> dict[str, Any]:
        """One endpoint's statistics as ADR-32 names them."""
        counts = self._by_verb.get(verb, _Counts())
        return {
            "num_requests": counts.requests,
            "num_errors": counts.errors,
            "last_error": counts.last_error,
            "processing_time": counts.ns,
            "average_processing_time": counts.ns // counts.requests if counts.requests else 0,
        }


class Discovery:
    """Answers `$SRV.PING|INFO|STATS`, to all, by name, and by name and id. Every replica answers."""

    def __init__(self, tally: Tally, clock: Clock, instance: str = "") -> None:
        self.id = instance or secrets.token_hex(11).upper()
        self._tally = tally
        self._started = rfc3339(clock.now_ms())
        self._version = _version()
        self._verbs: dict[str, Callable[[], dict[str, Any]]] = {
            "PING": dict,
            "INFO": lambda: {"description": _DESCRIPTION, "endpoints": endpoints()},
            "STATS": lambda: {"started": self._started, "endpoints": self._statistics()},
        }

    def subjects(self) -> list[str]:
        """What to subscribe to, without a queue group."""
        ends: tuple[tuple[str, ...], ...] = ((), (NAME,), (NAME, self.id))
        return [subjects.discovery(verb, *end) for verb in self._verbs for end in ends]

    async def answer(self, subject: str, payload: bytes) -> tuple[str, str, bytes, dict[str, str]]:
        """Answer one request, as `Shell.respond` wants it; the payload says nothing."""
        verb = subject.split(".")[1]
        identity = {
            "type": f"{_TYPE}{verb.lower()}_response",
            "name": NAME,
            "id": self.id,
            "version": self._version,
            "metadata": {},
        }
        return "ok", "discovery", _encode(identity | self._verbs[verb]()), {}

    def _statistics(self) -> list[dict[str, Any]]:
        return [_endpoint(verb) | self._tally.of(verb) for verb in VERBS]


def endpoints() -> list[dict[str, Any]]:
    """Every verb, with the JSON Schemas of its request and reply as text (metadata holds text only)."""
    return [
        _endpoint(verb) | {"metadata": {"request_schema": _schema(request), "reply_schema": _schema(reply)}}
        for verb, (request, reply) in VERBS.items()
    ]


def _endpoint(verb: str) -> dict[str, Any]:
    return {"name": verb, "subject": subjects.query_endpoint(verb), "queue_group": QUEUE}


def _schema(kind: Any) -> str:
    return _encode(msgspec.json.schema(kind)).decode()


def _version() -> str:
    try:
        return version(NAME)
    except PackageNotFoundError:
        return _NO_VERSION
