"""Reading files of events."""

import asyncio
import gzip
import io
import re
import sys

import pytest

from jetmem import loading
from jetmem.adapters.lined_files import LINE_BYTES_MAX, LoadError, Source, lines
from jetmem.client import Progress, Refused
from jetmem.console import load_command
from jetmem.loading import made_id, parse
from jetmem_schemas.errors import SchemaError


def _lines(*chunks):
    async def given():
        for chunk in chunks:
            yield chunk

    async def collect():
        return [pair async for pair in lines(given())]

    return asyncio.run(collect())


def _chunks(path):
    async def collect():
        with Source(str(path)) as source:
            return b"".join([chunk async for chunk in source.chunks()]), source.total, source.position

    return asyncio.run(collect())


def test_lines_are_numbered_across_chunks():
    assert _lines(b"a\nb", b"c\n\nd") == [(1, b"a"), (2, b"bc"), (3, b""), (4, b"d")]
    assert _lines() == []


def test_a_line_that_is_too_long_is_not_held():
    big = b"x" * (LINE_BYTES_MAX + 1)
    assert _lines(b"a\n", big, big, b"\nb\n") == [(1, b"a"), (2, None), (3, b"b")]
    assert _lines(big) == [(1, None)]


def test_plain_and_compressed_files_are_read(tmp_path):
    content = b"line\n" * 100_000
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert _chunks(plain) == (content, len(content), len(content))
    data, total, position = _chunks(packed)
    assert data == content
    assert total == position == packed.stat().st_size


@pytest.mark.parametrize("cut", [lambda b: b[:-20], lambda b: b[:50] + b"garbage" + b[60:], lambda b: b"no gzip"])
def test_a_damaged_compressed_file_is_said_to_be(tmp_path, cut):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(cut(gzip.compress(bytes(range(256)) * 100)))
    with pytest.raises(LoadError) as caught:
        _chunks(path)
    assert caught.value.damaged


def test_a_line_becomes_what_is_published_verbatim():
    out = parse(7, b'{"tenant":"t","agent":"a","session":"s","event":{ "text": "x", "u": 1 }}')
    assert (out.tenant, out.agent, out.session, out.number) == ("t", "a", "s", 7)
    assert out.event == b'{ "text": "x", "u": 1 }'


def test_a_line_of_runs_becomes_a_run():
    out = parse(7, b'{"tenant":"t","agent":"a","session":"s","run":{"task":"x","success":true}}', "run")
    assert (out.kind, out.event, out.number) == ("run", b'{"task":"x","success":true}', 7)
    with pytest.raises(SchemaError) as error:
        parse(7, b'{"tenant":"t","agent":"a","session":"s","event":{"text":"x"}}', "run")
    assert (error.value.code, error.value.field) == ("missing_field", "run")
    assert error.value.message == "required field run is missing; lines with event are for `jetmem load`"


def test_made_ids_depend_on_everything():
    args = [("t", "a", "s", 1, b"e"), ("u", "a", "s", 1, b"e"), ("t", "b", "s", 1, b"e"), ("t", "a", "z", 1, b"e")]
    args += [("t", "a", "s", 2, b"e"), ("t", "a", "s", 1, b"f")]
    args += [(*args[0], "run")]
    made = {made_id(*each) for each in args}
    assert len(made) == 7
    assert all(len(each) == 26 for each in made)
    assert made_id(*args[0]) == made_id(*args[0]) == "59A4ZZNACR95Z8ZK5T5WSFDXFK"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"nope", "bad_json"),
        (b"[]", "bad_field"),
        (b'{"agent":"a","session":"s","event":{}}', "missing_field"),
        (b'{"tenant":5,"agent":"a","session":"s","event":{}}', "bad_field"),
        (b'{"tenant":"\xff","agent":"a","session":"s","event":{}}', "bad_utf8"),
        (None, "too_large"),
    ],
)
def test_a_bad_line_has_a_code(line, code):
    with pytest.raises(SchemaError) as error:
        parse(1, line)
    assert error.value.code == code


def test_a_file_that_is_not_there_is_an_os_error():
    with pytest.raises(FileNotFoundError), loading.Source("/nowhere/at/all"):
        pass


@pytest.mark.parametrize("content", [b"", b"x", b"one\ntwo\n" * 50_000], ids=len)
def test_what_is_packed_shows_in_its_bytes_whatever_its_name(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(content) + gzip.compress(b"three\n") + b"\0" * 512)
    assert _chunks(path)[0] == content + b"three\n"


class _Client:
    """Acknowledges everything at the end, and refuses what says so: as batches do, later than lines are read."""

    async def publish_many(self, events, *, progress, on_refused, timeout_s):
        taken = [out async for out in events]
        for out in [out for out in taken if b"refuse" in out.event]:
            on_refused(out, Refused("bad_field", "no", "text"))
        good = [out for out in taken if b"refuse" not in out.event]
        progress(Progress(ids=tuple(out.id for out in good), count=len(good), last_seq=len(good)))


def test_bad_lines_are_told_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    text = {1: "good", 2: None, 3: "refuse", 4: None, 5: "good", 6: "refuse", 7: None}
    line = '{{"tenant":"t","agent":"a","session":"s","event":{{"text":"{}"}}}}'
    path.write_text("\n".join("nope" if each is None else line.format(each) for each in text.values()))
    told = []
    loader = loading.Loader(_Client(), on_bad=lambda *bad: told.append(bad[0]), on_stored=lambda _: None)
    with Source(str(path)) as source:
        report = asyncio.run(loader.run(source))
    assert told == [2, 3, 4, 6, 7]
    assert (report.stored, report.bad) == (2, 5)


class _LateClient:
    """Acknowledges what it was given only once the load is cancelled."""

    def __init__(self):
        self.given = asyncio.Event()
        self.acknowledge = asyncio.Event()

    async def publish_many(self, events, *, progress, on_refused, timeout_s):
        first = await anext(events)
        self.given.set()
        await self.acknowledge.wait()
        progress(Progress((first.id,), 1, 7))
        async for _ in events:
            raise AssertionError("an interrupted load takes nothing more")


def test_what_is_acknowledged_after_an_interruption_is_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"tenant":"t","agent":"a","session":"s","event":{"text":"x"}}\n' * 2)

    async def interrupted():
        client = _LateClient()
        loader = loading.Loader(client, on_bad=lambda *_: None, on_stored=lambda _: None)
        with Source(str(path)) as source:
            running = asyncio.ensure_future(loader.run(source))
            await client.given.wait()
            running.cancel()
            asyncio.get_running_loop().call_soon(client.acknowledge.set)
            with pytest.raises(asyncio.CancelledError):
                await running
        return loader.report

    report = asyncio.run(interrupted())
    assert (report.stored, report.last_seq) == (1, 7)


def test_a_bad_line_is_told_on_a_line_of_its_own_above_the_bar(monkeypatch, tmp_path):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    work = load_command._Work("run", "stored", None, "", "")
    with Source(str(path)) as source, work._bar(source):
        work._on_bad(3, "bad_json", "no [bold] value " * 9)
    erased = r"\r\x1b\[2K"  # the bar's line, before what is told in its place
    assert re.search(rf"connecting.*{erased}line 3: bad_json: (no \[bold\] value )+\n", screen.getvalue(), re.DOTALL)
