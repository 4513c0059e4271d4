"""What can be set of one tenant: JSON in the bucket TENANTS, under the tenant's name; under `_` what holds for all.

A new setting is a field of `TenantSettings` with a default, and, if people set it, a line in `SETTABLE`. Fields that
this version does not know are kept when a value is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import decode_json

#: Under this key: what holds for every tenant. No tenant can have it for a name.
EVERYONE: Final = "_"
#: A value is small; what is larger was not written by us.
VALUE_BYTES_MAX: Final = 16 * 1024
#: Of a retention: a hundred years.
DAYS_MAX: Final = 36_500
_Days = Annotated[int, Meta(ge=0, le=DAYS_MAX)]


class Retention(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many days after its arrival a node of each level leaves the index; 0: never, as months and years do.

    It is about the index alone: what is out of it is recorded as before, and found by walking.

    Attributes:
        segment: Segments, with their grips.
        day: Days.
        week: Weeks.
    """

    segment: _Days = 0
    day: _Days = 0
    week: _Days = 0

    def days(self, level: str) -> int:
        """The limit of a level, in days; 0 for none."""
        return int(getattr(self, level, 0))


#: Segments for a month, days for a year, weeks for five.
OFFERED: Final = Retention(segment=30, day=365, week=1_826)


class TenantSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one tenant.

    Attributes:
        timezone: Whose days its days are, an IANA name; "" for the default of the installation.
        toc_paused: Nodes of its table of contents are not made, but for what a forget asks for.
        retention: When its nodes leave the index.
    """

    timezone: str = ""
    toc_paused: bool = False
    retention: Retention = Retention()


_settings = msgspec.json.Decoder(TenantSettings).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        SchemaError: `bad_field`; there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        text = f"timezone must be an IANA name like Europe/Amsterdam, not {name[:80]!r}"
        raise SchemaError("bad_field", text, "timezone") from error


def _zone_name(text: str) -> str:
    return zone_of(text).key if text else ""


def _retention(text: str) -> dict[str, int]:
    if text not in ("offered", "off", ""):
        raise SchemaError("bad_field", f"retention must be offered or off, not {text[:80]!r}", "retention")
    return {level: OFFERED.days(level) for level in Retention.__struct_fields__} if text == "offered" else {}


def _days(key: str, text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= DAYS_MAX:
        told = f"{key} must be a whole number of days, 1 to {DAYS_MAX}, or empty for ever; not {text[:80]!r}"
        raise SchemaError("bad_field", told, key)
    return int(text)


#: What people set, and how the text that they give becomes a value; behind a dot a field of a field.
SETTABLE: Final[Mapping[str, Callable[[str], Any]]] = {
    "timezone": _zone_name,
    "retention": _retention,
    **{key: partial(_days, key) for key in (f"retention.{level}" for level in Retention.__struct_fields__)},
}


def parsed(pairs: list[str]) -> dict[str, Any]:
    """The changes that `key=value` pairs ask for, in their order; an empty value is the default again.

    Raises:
        SchemaError: `bad_field`; the message names what is allowed.
    """
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if key not in SETTABLE:
            raise SchemaError("bad_field", f"no setting {key[:80]!r}; there is {', '.join(SETTABLE)}", key[:80])
        if not equals:
            raise SchemaError("bad_field", f"{pair!r} is not {key}=value", key)
        changes.pop(key, None)  # the later one holds, also over what it is a part of
        changes[key] = SETTABLE[key](text.strip())
    return changes


def decode(value: bytes) -> TenantSettings:
    """Settings as the bucket holds them; b"" is none.

    Raises:
        SchemaError: `bad_utf8`, `bad_json`, `too_deep` or `bad_field`: somebody else wrote them.
    """
    if not value:
        return TenantSettings()
    found = decode_json(value, _settings)
    _zone_name(found.timezone)
    return found


def decode_known(value: bytes) -> TenantSettings:
    """Settings that were understood once; the defaults if this machine does not know their time zone any more."""
    try:
        return decode(value)
    except SchemaError:
        return TenantSettings()


def changed(value: bytes, changes: Mapping[str, Any]) -> bytes:
    """The value with some fields changed, in the order given, all others as they are; of fields at their default none.

    Args:
        value: As the bucket holds it.
        changes: New values by field; `field.part` changes a part.

    Raises:
        SchemaError: As `decode`.
    """
    decode(value)
    held: dict[str, Any] = dict(_fields(value)) if value else {}
    default = msgspec.to_builtins(TenantSettings())
    for name, new in changes.items():
        field, _, part = name.partition(".")
        if part:
            within: dict[str, Any] = _fields(_encode(held.get(field, {})))
            _put(within, part, new, 0)
            new = within
        _put(held, field, new, default[field])
    made = _encode(held)
    decode(made)
    return made


def _put(held: dict[str, Any], name: str, new: Any, default: Any) -> None:
    if new == default:
        held.pop(name, None)
    else:
        held[name] = new
