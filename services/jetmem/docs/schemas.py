"""JSON Schema of everything an agent sends or gets, one document a message."""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

import msgspec

from jetmem_schemas import events, requests, toc
from jetmem_schemas.failures import Failure
from jetmem_schemas.waves import WaveTold

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
#: What may be published, by kind and version; a changed event is a new version beside the old one.
EVENTS: Final[dict[str, type[msgspec.Struct]]] = {
    "event.v1": events.Event,
    "run.v1": events.Run,
    "procedure.v1": events.Procedure,
    "forget.v1": events.Forget,
}
#: What stages publish and persist records beside it.
DERIVED: Final[dict[str, type[msgspec.Struct]]] = {"node.v1": toc.Node}
#: The body of a dead letter's notification on `mem.<tenant>.notify.dead_letter`.
NOTIFICATION: Final[dict[str, Any]] = {
    "title": "Notification",
    "description": "What could not be recorded, and why; the dead letter itself is stored.",
    "type": "object",
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "field": {"type": "string"},
        "subject": {"type": "string", "description": "where it was published"},
        "seq": {"type": "integer", "description": "its sequence on MEMORY"},
    },
    "required": ["code", "message", "field", "subject", "seq"],
}


def documents() -> dict[str, dict[str, Any]]:
    """Every document by its name."""
    kinds: dict[str, type[msgspec.Struct]] = EVENTS | DERIVED
    for verb, (request, reply) in requests.VERBS.items():
        kinds[f"query.{verb}.request"] = request
        kinds[f"query.{verb}.reply"] = reply
    kinds["failure"] = Failure
    kinds["notify.wave"] = WaveTold
    found = {name: _document(name, kind) for name, kind in kinds.items()}
    found["notify.dead_letter"] = {"$schema": DIALECT, "$id": "urn:jetmem:notify.dead_letter", **NOTIFICATION}
    return found


def text_of(document: dict[str, Any]) -> str:
    """A document as it is checked in."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def components(kinds: list[Any], ref: str) -> dict[str, Any]:
    """Schemas of these types and all they hold, by name, with our rules added and descriptions on one margin."""
    _, found = msgspec.json.schema_components(kinds, ref_template=ref)
    for name, rules in _RULES.items():
        if name in found:
            found[name] |= rules
    tidied: dict[str, Any] = _tidied(found)
    return tidied


def _document(name: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "$schema": DIALECT,
        "$id": f"urn:jetmem:{name}",
        "$ref": f"#/$defs/{kind.__name__}",
        "$defs": components([kind], "#/$defs/{name}"),
    }


def _tidied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _line(v) if k == "description" and isinstance(v, str) else _tidied(v) for k, v in value.items()}
    return [_tidied(each) for each in value] if isinstance(value, list) else value


def _line(text: str) -> str:
    return inspect.cleandoc(text)


def _selector(name: str, rule: dict[str, Any]) -> dict[str, Any]:
    return {"required": [name], "properties": {name: rule}}


#: Exactly one selector, as `events.check_forget` has it.
_ONE_SELECTOR: Final = {
    "oneOf": [
        _selector("ids", {"type": "array"}),
        _selector("agent", {"type": "string"}),
        _selector("author", {"type": "string"}),
        _selector("before", {"not": {"type": "null"}}),
        _selector("all", {"const": True}),
    ]
}
#: What the decoder checks beyond types.
_RULES: Final[dict[str, dict[str, Any]]] = {
    "Event": {
        "if": {"properties": {"kind": {"enum": sorted(events.TEXT_KINDS)}}},
        "then": {"required": ["text"], "properties": {"text": {"minLength": 1}}},
    },
    "Forget": _ONE_SELECTOR,
    "ForgetRequest": {"oneOf": [*_ONE_SELECTOR["oneOf"], _selector("seq", {"type": "integer"})]},
}
