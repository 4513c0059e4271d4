"""What can be set of one tenant: JSON in the bucket TENANTS, under the tenant's name; under `_` what holds for all.

A new setting is a field of `TenantSettings` with a default, and, if people set it, a line in `SETTABLE`. Fields that
this version does not know are kept when a value is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import decode_json

#: Under this key: what holds for every tenant. No tenant can have it for a name.
EVERYONE: Final = "_"
#: A value is small; what is larger was not written by us.
VALUE_BYTES_MAX: Final = 16 * 1024


class TenantSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one tenant.

    Attributes:
        timezone: Whose days its days are, an IANA name; "" for the default of the installation.
        toc_paused: Nodes of its table of contents are not made, but for what a forget asks for.
    """

    timezone: str = ""
    toc_paused: bool = False


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


#: What people set, and how the text that they give becomes a value.
SETTABLE: Final[Mapping[str, Callable[[str], Any]]] = {"timezone": _zone_name}


def parsed(pairs: list[str]) -> dict[str, Any]:
    """The changes that `key=value` pairs ask for; an empty value is the default again.

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


def changed(value: bytes, changes: Mapping[str, Any]) -> bytes:
    """The value with some fields changed, all others as they are.

    Raises:
        SchemaError: As `decode`.
    """
    decode(value)
    held: dict[str, Any] = dict(_fields(value)) if value else {}
    default = TenantSettings()
    for name, new in changes.items():
        if new == getattr(default, name):
            held.pop(name, None)
        else:
            held[name] = new
    made = _encode(held)
    decode(made)
    return made
