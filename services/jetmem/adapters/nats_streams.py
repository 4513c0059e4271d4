"""The streams: how each is made, and the check that a stored one is as it must be."""

from __future__ import annotations

import base64
from typing import Any, Final, NamedTuple

from nats.aio.client import Client

from jetmem.adapters.nats_connect import NOT_FOUND, ApiError, api, parse_headers
from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects
from jetmem_schemas.events import PAYLOAD_BYTES_MAX

_NS: Final = 1_000_000_000
#: JetStream: the stream name is already in use with a different configuration (someone was faster).
_IN_USE: Final = 10058
#: How the server says, with code 500, that a message was deleted or trimmed before.
_GONE: Final = ("not found", "no message found", "stream store EOF")
#: JetStream: no message found.
_NO_MESSAGE: Final = 10037
_SERVER_TROUBLE: Final = 500
#: What decides whether a memory can be lost, swallowed or kept from being erased; other fields are the operator's.
_CHECKED: Final = (
    "subjects", "subject_transform", "discard", "storage", "retention", "allow_atomic", "duplicate_window",
    "max_age", "max_msgs", "max_msgs_per_subject", "max_msg_size", "num_replicas", "deny_delete", "deny_purge",
    "no_ack", "allow_msg_ttl", "allow_rollup_hdrs", "persist_mode", "mirror", "sealed",
)  # fmt: skip
#: How a server writes that a field was not given; the window is the exception, two minutes then.
_DEFAULTS: Final[dict[str, tuple[Any, ...]]] = {"num_replicas": (1,), "persist_mode": ("default",)}
_UNSET: Final = (None, 0, -1, "", False)


def configuration(stream: str, common: Common) -> dict[str, Any]:
    """The configuration that a stream is created with."""
    memory = {
        "name": subjects.MEMORY,
        "subjects": list(subjects.MEMORY_SUBJECTS),
        "subject_transform": {"src": subjects.MEMORY_SOURCE, "dest": subjects.MEMORY_DESTINATION},
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_bytes": common.memory_bytes_max,
        "max_msg_size": PAYLOAD_BYTES_MAX,
        "duplicate_window": _NS // 10,
        "num_replicas": common.replicas,
        "allow_atomic": True,
        "allow_direct": True,
    }
    record = {
        "name": subjects.RECORD,
        "subjects": list(subjects.RECORD_SUBJECTS),
        "retention": "limits",
        "storage": "memory",
        "discard": "old",
        "max_bytes": limits.RECORD_BYTES_MAX,
        "max_age": int(limits.RECORD_AGE_S * _NS),
        "duplicate_window": _NS // 10,
        "num_replicas": 1,
    }
    embed = {
        "name": subjects.EMBED,
        "subjects": list(subjects.EMBED_SUBJECTS),
        "retention": "workqueue",
        "storage": "memory",
        "discard": "new",
        "max_bytes": limits.EMBED_BYTES_MAX,
        "duplicate_window": _NS // 10,
        "num_replicas": 1,
    }
    dead = {
        "name": subjects.DEAD,
        "subjects": list(subjects.DEAD_SUBJECTS),
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_bytes": limits.DEAD_BYTES_MAX,
        "duplicate_window": 120 * _NS,
        "num_replicas": common.replicas,
        "allow_direct": True,
    }
    return {c["name"]: c for c in (memory, record, embed, dead, *_buckets(common))}[stream]


def _buckets(common: Common) -> list[dict[str, Any]]:
    """A key-value bucket is a stream of the last messages of each subject."""
    bucket: dict[str, Any] = {
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "duplicate_window": 120 * _NS,
        "num_replicas": common.replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }
    tenants = {
        "name": subjects.TENANTS,
        "subjects": list(subjects.TENANTS_SUBJECTS),
        "max_bytes": limits.TENANTS_BYTES_MAX,
        "max_msgs_per_subject": limits.TENANTS_HISTORY,
    }
    owners = {
        "name": subjects.OWNERS,
        "subjects": list(subjects.OWNERS_SUBJECTS),
        "max_bytes": limits.OWNERS_BYTES_MAX,
        "max_msgs_per_subject": limits.OWNERS_HISTORY,
    }
    return [bucket | tenants, bucket | owners]


async def ensure(nc: Client, stream: str, common: Common) -> dict[str, Any]:
    """Create the stream, or check the one that is there; returns its info. Told to verify, it never creates.

    Raises:
        Broken: The stored configuration would lose or misplace messages.
        Retryable: The broker did not answer, or whoever manages the streams has not made this one yet.
    """
    wanted = configuration(stream, common)
    try:
        info = await stream_info(nc, stream)
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise _refused(f"stream {stream}: {error}", error) from error
        if common.streams == "verify":
            raise Retryable(f"stream {stream} is not there yet; JETMEM_STREAMS=verify leaves it to others") from error
        info = await _create(nc, stream, wanted)
    for field in _CHECKED:
        found, needed = info["config"].get(field), wanted.get(field)
        if _plain(field, found) != _plain(field, needed):
            raise Broken(
                f"stream {stream} has {field} {_told(found)}, but {_told(needed)} is needed; correct or remove it"
            )
    return info


def _plain(field: str, value: Any) -> Any:
    """A field's value; None for what the server takes if it is not given, however that is written."""
    return None if value in _UNSET or value in _DEFAULTS.get(field, ()) else value


def _told(value: Any) -> str:
    return "the server's default" if value is None else repr(value)


async def _create(nc: Client, stream: str, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return await api(nc, subjects.raw_stream_api("STREAM.CREATE", stream), wanted)
    except ApiError as error:
        if error.err_code == _IN_USE:
            return await stream_info(nc, stream)
        raise _refused(f"stream {stream} cannot be created: {error}", error) from error


def _refused(text: str, error: ApiError) -> Retryable | Broken:
    """5xx is the server's trouble of the moment (starting, electing, out of room); others are ours."""
    return Retryable(text) if error.code >= _SERVER_TROUBLE else Broken(text)


async def stream_info(nc: Client, stream: str) -> dict[str, Any]:
    """State and configuration of a stream.

    Raises:
        ApiError: It does not exist, among others.
        Retryable: The broker did not answer.
    """
    return await api(nc, subjects.raw_stream_api("STREAM.INFO", stream))


class Stored(NamedTuple):
    """One stored message; `time` as the server writes it."""

    seq: int
    time: str
    headers: dict[str, str]
    data: bytes


async def erase(nc: Client, stream: str, seq: int) -> int:
    """Overwrite one message on disk; returns its bytes, 0 if it was gone already.

    Raises:
        ApiError: The stream does not exist, among others.
        Retryable: The broker did not answer.
    """
    found = await next_message(nc, stream, seq)
    if found is None or found.seq != seq:
        return 0
    await overwrite(nc, stream, seq)
    return len(found.data)


async def overwrite(nc: Client, stream: str, seq: int) -> bool:
    """Overwrite one message on disk: true once it is, false if it was gone already, with or without its bytes.

    Raises:
        ApiError: The stream does not exist, among others.
        Retryable: The broker did not answer.
    """
    try:
        await api(nc, subjects.raw_stream_api("STREAM.MSG.DELETE", stream), {"seq": seq})
    except ApiError as error:
        if error.code != NOT_FOUND and not any(words in error.description for words in _GONE):
            raise
        return False
    return True


async def next_message(nc: Client, stream: str, seq: int, subject: str = ">") -> Stored | None:
    """The first message at or after a sequence whose subject fits, or None.

    As JSON, not as a direct read: headers of a stranger's message, read off the wire, could end the connection.

    Raises:
        ApiError: The stream does not exist, among others.
        Retryable: The broker did not answer.
    """
    return await _message(nc, stream, {"seq": seq, "next_by_subj": subject})


async def last_message(nc: Client, stream: str, subject: str) -> Stored | None:
    """The last message of a subject, or None.

    Raises:
        ApiError: The stream does not exist, among others.
        Retryable: The broker did not answer.
    """
    return await _message(nc, stream, {"last_by_subj": subject})


async def _message(nc: Client, stream: str, body: dict[str, Any]) -> Stored | None:
    try:
        found = (await api(nc, subjects.raw_stream_api("STREAM.MSG.GET", stream), body))["message"]
    except ApiError as error:
        if error.err_code == _NO_MESSAGE:
            return None
        raise
    headers = parse_headers(base64.b64decode(found.get("hdrs", "")))
    return Stored(found["seq"], found["time"], headers, base64.b64decode(found.get("data", "")))
