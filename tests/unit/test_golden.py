"""Every payload that an agent or a stage may ever have published still decodes, to what it always meant."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from jetmem.docs import schemas
from jetmem_schemas import events, toc

GOLDEN = Path(__file__).parents[2] / "schemas" / "golden"
SAMPLES = sorted(p for p in GOLDEN.glob("*.json") if not p.name.endswith(".expected.json"))
TIMES = ("ts", "expires_at", "before", "start", "end")


def decoded(kind: str, payload: bytes) -> dict[str, Any]:
    message = toc.decode_node(payload) if kind == "node" else events.decode(kind, payload)
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    for name in TIMES:
        if fields.get(name) is not None:
            fields[name] = events.epoch_ms(fields[name], name)
    plain: dict[str, Any] = json.loads(msgspec.json.encode(fields))
    return plain


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_decodes_to_what_it_always_meant(sample: Path) -> None:
    expected = json.loads(sample.with_suffix(".expected.json").read_text(encoding="utf-8"))
    held = decoded(sample.name.split(".")[0], sample.read_bytes())
    # fields that came later may only add to what an old sample means
    assert {name: held[name] for name in expected} == expected


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_fits_the_published_schema_of_its_version(sample: Path) -> None:
    name = ".".join(sample.name.split(".")[:2])
    jsonschema.validate(json.loads(sample.read_bytes()), schemas.documents()[name])


def test_every_version_has_samples_with_and_without_unknown_fields() -> None:
    found = {".".join(p.name.split(".")[:2]) for p in SAMPLES}
    assert found == {*schemas.EVENTS, *schemas.DERIVED}
    assert {p.name.split(".")[0] for p in SAMPLES} == {*events._DECODERS, "node"}
    assert any("unknown-fields" in p.name for p in SAMPLES)


def test_every_sample_has_its_expectation_and_no_expectation_is_alone() -> None:
    expectations = {p.name.removesuffix(".expected.json") for p in GOLDEN.glob("*.expected.json")}
    assert {p.name.removesuffix(".json") for p in SAMPLES} == expectations
    assert len(SAMPLES) >= 23  # none is ever removed
