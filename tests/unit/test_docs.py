"""What is generated is up to date and says what `flow.py`, the schemas and the settings say."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jetmem import flow
from jetmem.adapters.nats_streams import configuration
from jetmem.console import configuration as layers
from jetmem.docs import asyncapi, files, pages, schemas
from jetmem.runtime.errors import Broken
from jetmem.runtime.settings import Common
from jetmem_schemas import errors, events, requests, subjects

ROOT = Path(__file__).parents[2]
STREAMS = {*subjects.STREAMS, subjects.TENANTS, subjects.OWNERS}


def part(page: str, name: str) -> str:
    found = re.search(rf"<!-- begin:{name} .*?-->\n(.*?)<!-- end:{name} -->", page, re.DOTALL)
    assert found, f"no part {name}"
    return found[1]


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_everything_generated_is_up_to_date() -> None:
    for path, text in files.generated(ROOT).items():
        assert (ROOT / path).is_file(), f"{path} is missing: make docs"
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is not up to date: make docs"
    assert files.stale(ROOT) == []


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    for path in (*files.PAGES, Path("services/jetmem/flow.py")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    left = tmp_path / files.GENERATED / "old.schema.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    assert left.relative_to(tmp_path) in files.write(tmp_path)
    assert not left.exists()
    assert files.write(tmp_path) == []


def test_nothing_is_written_outside_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        files.write(tmp_path)


def test_a_part_that_nobody_makes_is_refused() -> None:
    with pytest.raises(Broken):
        files.filled("<!-- begin:nonsense (make docs) -->\n<!-- end:nonsense -->")


def test_the_stage_table_equals_the_flow() -> None:
    page = (ROOT / "services/README.md").read_text(encoding="utf-8")
    shown = {row[0]: (row[1], row[2], row[3]) for row in rows(part(page, "stages"))}
    assert shown == {
        s.name: (s.reads or "requests", ", ".join(s.emits) or "–", s.store or "nothing") for s in flow.STAGES
    }
    assert list(shown) == list(flow.NAMES)
    assert all(name in part(page, "picture") for name in flow.NAMES)


def test_streams_and_their_consumers_equal_the_flow() -> None:
    page = (ROOT / "services/README.md").read_text(encoding="utf-8")
    shown = {row[0]: {name.strip("`") for name in row[5].split(", ")} for row in rows(part(page, "streams"))}
    assert set(shown) == STREAMS
    for stage in flow.STAGES:
        assert {stage.reads, *stage.emits} - {""} <= STREAMS
    for stream in STREAMS:
        assert configuration(stream, Common())["name"] == stream
        readers = {s.name for s in flow.STAGES if s.reads == stream or (s.tenants and stream == subjects.TENANTS)}
        readers |= {"persist"} if stream == subjects.OWNERS else set()
        assert shown[stream] == (readers or {"jetmem dead-letters"})


def test_a_stage_folder_handles_the_streams_that_the_flow_says() -> None:
    """Each stream is named in the stage's folder, or is that of the projections' process, of who asks embed."""
    for stage in flow.STAGES:
        source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "services/jetmem" / stage.name).glob("*.py"))
        named = set(re.findall(r"subjects\.(MEMORY|RECORD|EMBED|DEAD)\b", source))
        named |= {subjects.RECORD} if "ProjectionProcess(" in source or "subjects.record(" in source else set()
        named |= {subjects.EMBED} if "Asker(" in source else set()
        named |= {subjects.DEAD} if "subjects.dead(" in source else set()
        named |= {subjects.MEMORY} if "subjects.memory(" in source or "derived_subject(" in source else set()
        assert {stage.reads, *stage.emits} - {""} <= named, stage.name


def test_asyncapi_equals_the_flow_and_the_verbs() -> None:
    document: dict[str, Any] = yaml.safe_load((ROOT / files.GENERATED / "asyncapi.yaml").read_text(encoding="utf-8"))
    assert document == json.loads(json.dumps(asyncapi.document()))
    assert [tag["name"] for tag in document["info"]["tags"]] == list(flow.NAMES)
    for stage in flow.STAGES:
        mine = {name.removeprefix(f"{stage.name}_") for name in document["operations"] if name.startswith(stage.name)}
        wanted = {f"reads_{stage.reads}"} if stage.reads else set()
        assert {m for m in mine if re.match("reads_|emits_", m)} == wanted | {f"emits_{s}" for s in stage.emits}
    assert {n for n in document["channels"] if n.startswith("query_")} == {f"query_{verb}" for verb in requests.VERBS}
    for verb in requests.VERBS:
        address = document["channels"][f"query_{verb}"]["address"]
        assert subjects.parse_query(address.replace("{tenant}", "acme")) == ("acme", verb)
    for name in schemas.EVENTS:
        kind = name.split(".")[0]
        address = document["channels"][f"publish_{kind}"]["address"]
        assert re.sub(r"\{\w+\}", "x", address) == subjects.memory("x", kind, "x", "x")


def test_every_reference_of_asyncapi_leads_somewhere() -> None:
    document = asyncapi.document()

    def refs(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [ref for each in value.values() for ref in refs(each)]
        return [ref for each in value for ref in refs(each)] if isinstance(value, list) else []

    found = refs(document)
    assert found
    for ref in found:
        at: Any = document
        for key in ref.removeprefix("#/").split("/"):
            assert key in at, ref
            at = at[key]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", n) for n in (*document["channels"], *document["operations"]))


@pytest.mark.parametrize("name", schemas.documents())
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.documents()[name])


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("event.v1", {}),
        ("event.v1", {"text": ""}),
        ("event.v1", {"kind": "note"}),
        ("event.v1", {"text": "a", "role": "god"}),
        ("event.v1", {"text": "a", "importance": 2}),
        ("run.v1", {"task": "a"}),
        ("forget.v1", {}),
        ("forget.v1", {"all": False}),
        ("forget.v1", {"ids": ["a"], "author": "b"}),
        ("query.search.request", {"query": "a", "limit": 10**9}),
        ("query.search.request", {"qury": "a"}),
    ],
)
def test_a_schema_refuses_what_the_decoder_refuses(name: str, refused: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(refused, schemas.documents()[name])


def test_every_setting_and_every_metric_has_a_meaning() -> None:
    for env, _, _, meaning in pages.setting_rows(layers.sections()):
        assert meaning, f"{env} has no line under Attributes:"
    assert all(row[3] for row in rows(pages.metric_table()))
    fields = {f"{name}.{field}" for name, kind in layers.sections().items() for field in kind.__struct_fields__}
    told = {f"{name}.{field}" for name, kind in layers.sections().items() for field in pages.attributes(kind)}
    assert told == fields


def test_the_readme_lists_every_verb_and_code() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [row[0] for row in rows(part(page, "verbs"))] == list(requests.VERBS)
    assert [row[0] for row in rows(part(page, "dead-codes"))] == list(errors.DEAD_CODES)
    assert [row[0] for row in rows(part(page, "request-codes"))] == list(errors.REQUEST_CODES)


def test_the_readme_lists_every_field_of_what_is_published() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind in (events.Event, events.Run, events.Procedure, events.Forget):
        told = re.search(rf"^\| `mem\.<tenant>\.{kind.__name__.lower()}\..*$", page, re.MULTILINE)
        assert told, kind
        assert {field for field in kind.__struct_fields__ if f"`{field}`" not in told[0]} == set()


DECISIONS = sorted((ROOT / "services/decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_parts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.name[:4]} ")
    status = re.search(r"^Status: (\w+)$", text, re.MULTILINE)
    assert status and status[1] in ("accepted", "gap", "replaced")
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert parts == ["Context", "Decision", "Consequences", "Log"]
    assert re.search(r"^- \d{4}-\d{2}-\d{2}: ", text, re.MULTILINE)


def test_decisions_are_numbered_and_those_that_code_names_exist() -> None:
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1)), "each number once, none left out"
    for source in (ROOT / "services").rglob("*.py"):
        for named in re.findall(r"decision (\d{4})", source.read_text(encoding="utf-8")):
            assert int(named) in numbers, f"{source}: decision {named}"


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "services/README.md", "services/SIZING.md"]
)
def test_links_and_named_files_exist(name: str) -> None:
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), f"{name} links to {link}"
    for file in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text):
        assert any((ROOT / top / file).exists() for top in ("", "services", "services/jetmem")), f"{name} names {file}"
