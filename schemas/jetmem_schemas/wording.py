"""What a value must be, in words for people, from its type: the one place that words what a decoder refuses."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Final

import msgspec.inspect as types

from jetmem_schemas.subjects import ID_PATTERN, TOKEN_PATTERN

A_TIME: Final = "a time: RFC 3339 with a zone, as 2026-01-15T09:30:00Z, or epoch milliseconds"
_ANY_CLOCK: Final = (
    "a time: RFC 3339, as 2026-01-15T09:30:00Z, without a zone the tenant's clock, or epoch milliseconds"
)
#: Shapes that have a name for people; any other pattern is shown as it is.
_PATTERNS: Final = {
    TOKEN_PATTERN: "1 to 64 letters, digits, _ or -",
    ID_PATTERN: "1 to 64 letters, digits, or any of _ . : -",
    r"^[a-z][a-z0-9_]{0,31}$(?!\n)": "1 to 32 lower-case letters, digits or _, the first a letter",
}
#: A bound that only says that a number fits into its bits is no news for anyone.
_BOUND_MAX: Final = 2**53
_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_GOT: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number with a fraction",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def allowed(kind: Any, path: str = "", *, key: bool = False) -> str:
    """What is accepted at a path of a type, as what follows "must be"; "" if that cannot be said.

    Args:
        kind: A Struct, or any type that msgspec decodes.
        path: As msgspec writes it, without `$.`: `limit`, `steps[0].ms`, `meta[...]`.
        key: The keys of the object there are meant, rather than it.
    """
    at = _at(_inspected(kind), path)
    if key:
        at = next((each.key_type for each in _choices(at) if isinstance(each, types.DictType)), None)
    return "" if at is None else _of_any(at)


def fields(kind: Any, path: str = "") -> list[str]:
    """The names that an object at a path may have."""
    at = _at(_inspected(kind), path)
    return [field.encode_name for each in _choices(at) if isinstance(each, types.StructType) for field in each.fields]


def got(name: str) -> str:
    """A type as msgspec names it, in words."""
    return _GOT.get(name, name)


def listed(words: list[str], last: str = "or") -> str:
    """`a, b or c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


@lru_cache(maxsize=64)
def _inspected(kind: Any) -> types.Type:
    return types.type_info(kind)


def _at(kind: types.Type | None, path: str) -> types.Type | None:
    for name, index in _STEP.findall(path):
        inner = [_inner(each, name, index) for each in _choices(kind)]
        kind = next((each for each in inner if each is not None), None)
    return kind


def _inner(kind: types.Type, name: str, index: str) -> types.Type | None:
    if name and isinstance(kind, types.StructType):
        return next((field.type for field in kind.fields if field.encode_name == name), None)
    if index and isinstance(kind, types.ListType):
        return kind.item_type
    return kind.value_type if index and isinstance(kind, types.DictType) else None


def _choices(kind: types.Type | None) -> list[types.Type]:
    """The members of a union, whatever is wrapped around it."""
    if isinstance(kind, types.Metadata):
        return _choices(kind.type)
    if isinstance(kind, types.UnionType):
        return [member for each in kind.types for member in _choices(each)]
    return [] if kind is None else [kind]


def _of_any(kind: types.Type) -> str:
    members = _choices(kind)
    times = [each for each in members if isinstance(each, types.DateTimeType)]
    if times:
        return A_TIME if times[0].tz else _ANY_CLOCK
    words = [_of(each) for each in members if not isinstance(each, types.NoneType) or len(members) == 1]
    shown = [each for each in dict.fromkeys(words) if each != "a whole number" or "a number" not in words]
    return listed(shown) + _example(kind) if all(words) else ""


def _example(kind: types.Type) -> str:
    """`, as {"tool": "plan"}` where the type names one."""
    found = kind.extra_json_schema or {} if isinstance(kind, types.Metadata) else {}
    return f", as {json.dumps(found['examples'][0])}" if found.get("examples") else ""


def _of(kind: types.Type) -> str:
    if isinstance(kind, types.IntType | types.FloatType):
        noun = "a whole number" if isinstance(kind, types.IntType) else "a number"
        return noun + _range(kind)
    if isinstance(kind, types.StrType):
        return _text(kind)
    if isinstance(kind, types.LiteralType):
        return listed([str(each) for each in kind.values])
    if isinstance(kind, types.ListType):
        return "a list" + _size(kind.min_length, kind.max_length, "item")
    if isinstance(kind, types.DictType):
        return "an object" + _size(kind.min_length, kind.max_length, "field")
    if isinstance(kind, types.BoolType):
        return "true or false"
    if isinstance(kind, types.NoneType):
        return "null"
    return "an object" if isinstance(kind, types.StructType) else ""


def _range(kind: types.IntType | types.FloatType) -> str:
    """`, 1 to 1000`; the bounds of floats may be left out (`above 0`)."""
    least, most = kind.ge, kind.le if kind.le is None or kind.le < _BOUND_MAX else None
    above = "" if kind.gt is None else f"above {kind.gt:g}"
    if least is not None and most is not None:
        return f", {_number(least)} to {_number(most)}"
    parts = [above] if above else []
    parts += [f"at least {_number(least)}"] if least is not None else []
    parts += [f"below {_number(kind.lt)}"] if kind.lt is not None else []
    parts += [f"at most {_number(most)}"] if most is not None else []
    return f", {' and '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    return f"{int(value)}" if value == int(value) else f"{value:g}"


def _text(kind: types.StrType) -> str:
    if kind.pattern is not None:
        return _PATTERNS.get(kind.pattern, f"text like {kind.pattern}")
    return "text" + _size(kind.min_length, kind.max_length, "character")


def _size(least: int | None, most: int | None, noun: str) -> str:
    if most is None:
        return f" of at least {least} {noun}{'s' if least != 1 else ''}" if least else ""
    return f" of {least} to {most} {noun}s" if least else f" of at most {most} {noun}s"
