"""Counts exported from a real learn, by the command that operators have."""

import asyncio
import json

import msgspec
from typer.testing import CliRunner

from harness.commands import jetmem
from harness.pipeline import pipeline
from jetmem.cli import app
from jetmem_schemas import sharing, subjects
from jetmem_schemas.failures import Failure
from jetmem_schemas.internal import AppliedReply, AppliedRequest, encode
from jetmem_schemas.sharing import ExportReply, ExportRequest

SECRETS = ("harbour", "alice", "zanzibar", "lighthouse", "hammer")


def run(body, tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            await line.start("persist", "learn")
            await body(line)

    asyncio.run(test())


async def ran(line, procedure, success, **fields):
    body = {
        "task": "repair the harbour crane", "success": success, "procedure": procedure, "failure": "zanzibar broke",
        "lessons": ["lighthouse first"], "steps": [{"tool": "hammer"}], **fields,
    }  # fmt: skip
    subject = subjects.memory("acme", "run", "alice", "s1")
    return (await line.nc.jetstream().publish(subject, msgspec.json.encode(body), timeout=5)).seq


async def applied(line, seq):
    request = AppliedRequest("acme", await line.covered(seq), 20_000)
    assert not (await line.ask("learn", "applied", request, AppliedReply)).late


async def exported(line, *arguments, tenant="acme"):
    """The one source of an export, with its text."""
    text = await jetmem(line, "procedures", "export", tenant, "--stats", *arguments)
    told = json.loads(text)
    assert told["format"] == 1
    (source,) = told["sources"]
    return source, text


def test_counts_leave_and_no_texts_and_are_merged(tmp_path):
    async def body(line):
        for n in range(5):
            await ran(line, "plan", n > 0)
        await applied(line, await ran(line, "guess", False, id="wrong"))
        source, text = await exported(line)
        assert source["procedures"] == {
            "guess": {"runs": 1.0, "successes": 0.0}, "plan": {"runs": 5.0, "successes": 4.0}
        }  # fmt: skip
        assert (source["source"], source["version"], source["epsilon"]) == ("acme", 6, 0.0)
        assert not [word for word in SECRETS if word in text]
        berlin = tmp_path / "berlin.json"
        assert (
            await jetmem(line, "procedures", "export", "acme", "--stats", "--source", "berlin", "--out", str(berlin))
            == ""
        )
        acme = tmp_path / "acme.json"
        acme.write_text(text)
        result = CliRunner().invoke(app, ["procedures", "merge", str(acme), str(berlin)])
        assert [(each["id"], each["runs"], each["sources"]) for each in json.loads(result.stdout)["combined"]] == [
            ("guess", 2.0, 2), ("plan", 10.0, 2)
        ]  # fmt: skip
        # what is forgotten leaves no more, and the later export replaces the earlier one
        await applied(line, await line.forget(ids=["wrong"]))
        acme.write_text((await exported(line))[1])
        result = CliRunner().invoke(app, ["procedures", "merge", str(berlin), str(acme)])
        assert list(json.loads(result.stdout)["sources"][0]["procedures"]) == ["plan"]

    run(body, tmp_path)


def test_noise_is_drawn_once_for_what_was_counted_also_after_a_restart(tmp_path):
    async def body(line):
        for n in range(20):  # of few runs all may be noised to 0, which two exports have in common then
            last = await ran(line, "plan", n % 2 == 0)
        await applied(line, last)
        first, _ = await exported(line, "--epsilon", "0.5")
        assert first["epsilon"] == 0.5
        assert first["procedures"]["plan"] != {"runs": 20.0, "successes": 10.0}
        await line.stop("learn")
        await line.start("learn")
        assert (await exported(line, "--epsilon", "0.5"))[0] == first
        assert (await exported(line, "--epsilon", "0.25"))[0]["procedures"] != first["procedures"]
        await applied(line, await ran(line, "plan", True))
        assert (await exported(line, "--epsilon", "0.5"))[0]["procedures"] != first["procedures"]

    run(body, tmp_path)


def test_pages_are_of_one_version_and_end_when_something_is_erased(tmp_path):
    async def body(line):
        names = [f"{n:03}" + "𐀀" * 253 for n in range(sharing.PAGE + 1)]
        await asyncio.gather(*(ran(line, name, True, id=f"r{n}") for n, name in enumerate(names)))
        await applied(line, await ran(line, names[0], True))
        assert list((await exported(line))[0]["procedures"]) == names
        first = await line.ask("learn", "export", ExportRequest("acme", "acme"), ExportReply)
        assert (len(first.procedures), first.more, first.left_out) == (sharing.PAGE, True, 0)
        assert len(encode(first)) < 900_000
        await applied(line, await ran(line, names[-1], False))
        following = ExportRequest("acme", "acme", 0.0, first.version, sharing.PAGE)
        second = await line.ask("learn", "export", following, ExportReply)
        assert (second.version, second.procedures, second.more) == (first.version, [(names[-1], 1.0, 1.0)], False)
        await applied(line, await line.forget(ids=["r7"]))
        subject = subjects.service("learn", subjects.partition_of("acme"), "export")
        reply = await line.nc.request(subject, encode(following), timeout=5)
        assert msgspec.json.decode(reply.data, type=Failure).code == "bad_cursor"

    run(body, tmp_path)


def test_a_tenant_of_whom_nothing_is_learnt_and_a_stage_that_is_down(tmp_path):
    async def body(line):
        told = await jetmem(line, "procedures", "export", "nobody", "--stats", code=1)
        assert told == "jetmem: not_found: no run of nobody names a procedure; is the tenant's name spelt right?"
        await jetmem(line, "procedures", "export", "bad.name", "--stats", code=2)
        await line.stop("learn")
        assert "stage learn is not running" in await jetmem(line, "procedures", "export", "acme", "--stats", code=1)

    run(body, tmp_path)
