"""Procedures as people see them, and the questions that their commands ask."""

import io
import json
import re

import msgspec
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from harness.planted import ask
from harness.taught import taught
from jetmem.cli import app
from jetmem.console import calling, procedure_command, procedure_tables, tables
from jetmem_schemas import procedures as p
from jetmem_schemas.requests import VERBS


@pytest.fixture
def stages():
    return taught()


def reply_of(stages, verb, **request):
    return msgspec.convert(ask(stages, verb, **request), VERBS[verb][1])


def shown(show, reply, width=160):
    console = tables.console()
    console.file, console.width = io.StringIO(), width
    show(console, reply)
    return console.file.getvalue()


def all_in(text, *parts):
    missing = [part for part in parts if part not in text]
    assert not missing, text


def test_recommended_procedures_are_told_with_their_reasons(stages):
    reply = reply_of(stages, "recommend", task="fix it", k=2, explore="thompson")
    text = shown(procedure_tables.show_recommended, reply)
    all_in(text, "alpha  chance 0.80 (0.50–0.90)  drew 0.50", "by runs of similar tasks; 8 of 10 runs succeeded")
    all_in(
        text, "4 in this context; 2 by this agent; boost +0.020; crystal 2", "✓ alike 0.91  “fix the tests”  alice  r1"
    )
    all_in(text, "steps: search > edit > test", "takes: 1.2 s, nine of ten at most 1.5 min", "costs: 0.02, nine of ten")
    all_in(
        text, "fails: timed out (2 runs)", "lesson: read the log first (1 run)", "fresh up to sequence 3 (procedures)"
    )
    assert text.index("alpha") < text.index("beta")
    all_in(shown(procedure_tables.show_recommended, msgspec.structs.replace(reply, cold=True)), "chances in general")
    none = msgspec.structs.replace(reply, procedures=[], cold=True)
    all_in(shown(procedure_tables.show_recommended, none), "no procedure is known")


def test_a_prediction_says_what_it_rests_on(stages):
    known = reply_of(stages, "predict", task="fix it", procedure="alpha")
    all_in(
        shown(lambda *given: procedure_tables.show_predicted("alpha", *given), known), "alpha  chance 0.80 (0.50–0.90)"
    )
    new = reply_of(stages, "predict", task="fix it", procedure="new")
    text = shown(lambda *given: procedure_tables.show_predicted("new", *given), new)
    all_in(text, "new  chance 0.50 (0.50–0.90)  it has no run; is its name", "nothing is known")


def test_procedures_are_a_table_with_a_spark_line(stages):
    def show(*given):
        procedure_tables.show_procedures(None, *given)

    reply = reply_of(stages, "procedures", limit=2)
    text = shown(show, reply)
    assert re.search(r"^procedure  runs .*\nalpha +10 ", text, re.MULTILINE), "numbers end in one line"
    all_in(text, "procedure", "alpha", "0.80", "0.50–0.90", "1.14", "▁██", "fluid", "2026-01-06", "more: --cursor")
    empty = msgspec.structs.replace(reply, procedures=[])
    all_in(shown(show, empty), "no procedure is known")
    some = shown(lambda *given: procedure_tables.show_procedures("crystalline", *given), empty)
    assert "no procedure is crystalline; without --state all are" in some and "known" not in some
    proved = msgspec.structs.replace(reply.procedures[0], id="search-then-edit-test", runs=12_345, state="crystalline")
    narrow = shown(show, msgspec.structs.replace(reply, procedures=[proved]), 80)
    assert re.search(r"^search-then-edit-test +12,345 .* crystalline +2026-01-06 *$", narrow, re.MULTILINE), narrow
    long = msgspec.structs.replace(proved, id="search-the-whole-repository_then-edit-and-run-the-tests")
    lines = shown(show, msgspec.structs.replace(reply, procedures=[long]), 80).splitlines()[:-1]
    assert all(len(line) <= 80 for line in lines)
    parts = [line[:25].strip() for line in lines[1:]]
    assert parts == ["search-the-whole-", "repository_then-edit-and-", "run-the-tests"]


def test_one_procedure_is_told_whole(stages):
    reply = reply_of(stages, "procedure", id="alpha")
    text = shown(procedure_tables.show_procedure, reply)
    all_in(text, "alpha  fluid", "look before you leap", "▁██  the latest last", "8 of 10 succeeded, by 2 agents")
    all_in(text, "1.14 times the tenant's", "search > edit > test", "lang=python", "fails: timed out (2 runs)")
    assert "lately" not in text and "crystal" not in text and "reward" not in text
    whole = msgspec.structs.replace(
        reply.procedure, version="3", posterior=p.Interval(low=0.4, high=0.8), decayed_runs=4.5, decayed_successes=3.2,
        boost=-0.05, crystal=2, crystal_why="20 runs", crystal_since="2026-01-06T10:00:00.000Z", frozen=True,
        reward=p.Spread(p50=0.5, p90=0.9),
    )  # fmt: skip
    text = shown(procedure_tables.show_procedure, msgspec.structs.replace(reply, procedure=whole))
    all_in(
        text,
        "definition 3",
        "steps, frozen",
        "0.40–0.80 (3.2 of 4.5 runs, each",
        "-0.050 by waves",
        "crystal        version 2 since 2026-01-06 10:00:00: 20 runs",
    )


def test_neighbours_are_a_tree(stages):
    def show(*given):
        procedure_tables.show_related("alpha", *given)

    reply = reply_of(stages, "related", id="alpha", hops=2)
    text = shown(show, reply)
    all_in(text, "alpha\n└── beta  0.80 similar to\n    └── gamma  0.40 comes next")
    alone = msgspec.structs.replace(reply, procedures=reply.procedures[1:])
    all_in(shown(show, alone), "└── gamma  0.40 comes next through beta")
    all_in(shown(show, msgspec.structs.replace(reply, procedures=[])), "nothing is related to it")


def test_patterns_and_clusters(stages):
    def show(*given):
        procedure_tables.show_patterns(["search"], *given)

    reply = reply_of(stages, "patterns", done=["search"], limit=2)
    text = shown(show, reply)
    all_in(
        text,
        "next: test  at least 0.80 of the runs that went on so succeed",
        "\npatterns, whatever was done",
    )
    all_in(text, "search > edit", "1.50", "yes", "more: --cursor")
    all_in(
        shown(show, msgspec.structs.replace(reply, next=[])),
        "nothing is known of what comes after search\npatterns, whatever",
    )
    assert "whatever" not in shown(lambda *given: procedure_tables.show_patterns([], *given), reply)
    text = shown(procedure_tables.show_insights, reply_of(stages, "insights"))
    all_in(text, "7 tasks, 20 runs, 0.60 succeeded", "lang=python", "“fix the tests”")
    all_in(text, "✓ alpha  0.90, at least 0.70, lift 1.50, 8 runs", "✗ gamma  0.20, at least 0.10, lift 0.33, 6 runs")
    empty = msgspec.structs.replace(reply_of(stages, "insights"), insights=[])
    all_in(shown(procedure_tables.show_insights, empty), "no cluster")


def test_evidence_is_told_in_whole_words_of_any_terminal_with_its_order(stages):
    reply = reply_of(stages, "recommend", task="t", k=1)
    [first] = reply.procedures
    [near] = first.why.neighbours
    long = msgspec.structs.replace(near, task="make the failing unit tests of the billing service pass again " * 2)
    why = msgspec.structs.replace(first.why, neighbours=[long, long])
    reply = msgspec.structs.replace(reply, procedures=[msgspec.structs.replace(first, why=why)])
    lines = shown(procedure_tables.show_recommended, reply, 60).splitlines()[:-1]
    assert all(len(line) <= 60 for line in lines)
    assert "       billing service pass again make the failing unit" in lines
    assert "runs come by meaning and words together" in " ".join(lines)
    blind = msgspec.structs.replace(reply, degraded=["vector"])
    assert "by meaning and words" not in shown(procedure_tables.show_recommended, blind), "there are words alone"


def test_what_was_stored_steers_no_terminal_and_fills_no_screen(stages):
    reply = reply_of(stages, "recommend", task="t", k=1)
    long = p.Said(text="a\x1b[31m\nb" + "c" * 500, runs=1)
    [first] = reply.procedures
    bad = msgspec.structs.replace(first, id="x\x1b]0;y\x07", steps=["s\x1b[2J"], failures=[long], lessons=[])
    text = shown(procedure_tables.show_recommended, msgspec.structs.replace(reply, procedures=[bad]), 240)
    assert "\x1b" not in text and "\x07" not in text
    all_in(text, "fails: a [31m b", "c… (1 run)")


@pytest.mark.parametrize(
    ("ms", "told"),
    [(0, "0 ms"), (850.4, "850 ms"), (1200, "1.2 s"), (90_000, "1.5 min"), (3_600_000, "1 h"), (1e9, "11.6 d")],
)
def test_durations_are_told_in_their_unit(ms, told):
    assert procedure_tables._spread(p.Spread(p50=ms, p90=ms), of_time=True).startswith(told + ",")


@pytest.mark.parametrize("verb", ["recommend", "predict", "procedure", "procedures", "related", "patterns", "insights"])
def test_the_help_tells_the_services_own_defaults(verb):
    fields = {f.name: f.default for f in msgspec.structs.fields(VERBS[verb][0])}
    shared = {"after", "wait_ms", "cursor"}
    for param in get_command(app).commands[verb].params:
        if param.name in fields and param.name not in shared and param.default not in (None, False):
            assert param.default == fields[param.name], param.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend", "acme", ""],
        ["recommend", "acme", "t", "-k", "0"],
        ["recommend", "acme", "t", "--context", "lang"],
        ["recommend", "acme", "t", "--agent", "a b"],
        ["predict", "acme", "t", "x" * 257],
        ["procedures", "acme", "--sort", "beauty"],
        ["procedures", "acme", "--state", "solid"],
        ["related", "acme", "alpha", "--hops", "4"],
        ["related", "acme", "alpha", "--kind", "loves"],
        ["patterns", "acme", "--limit", "0"],
        ["insights", "acme", "--limit", "0"],
    ],
)
def test_what_would_be_refused_is_not_asked(arguments):
    done = CliRunner().invoke(app, [*arguments, "--server", "nats://127.0.0.1:1"])
    assert done.exit_code == 2, done.output


@pytest.mark.parametrize(
    ("arguments", "verb", "asked"),
    [
        (
            ["recommend", "acme", "t", "--context", "lang=python", "--context", "n=3", "--context", "ci=true"],
            "recommend",
            {"task": "t", "k": 5, "explore": "none", "context": {"lang": "python", "n": 3, "ci": True}},
        ),
        (
            [
                "recommend",
                "acme",
                "t",
                "-k",
                "2",
                "--explore",
                "thompson",
                "--seed",
                "7",
                "--agent",
                "bob",
                "--context",
                'a=["x"]',
            ],
            "recommend",
            {"task": "t", "k": 2, "explore": "thompson", "seed": "7", "agent": "bob", "context": {"a": '["x"]'}},
        ),
        (["predict", "acme", "t", "alpha"], "predict", {"task": "t", "procedure": "alpha"}),
        (["procedures", "acme", "--sort", "lift"], "procedures", {"sort": "lift", "limit": 50}),
        (["procedure", "acme", "alpha", "--after", "3"], "procedure", {"id": "alpha", "after": 3}),
        (
            ["related", "acme", "alpha", "--kind", "follows", "--hops", "2"],
            "related",
            {"id": "alpha", "kinds": ["follows"], "hops": 2, "limit": 20},
        ),
        (
            ["patterns", "acme", "--done", "a", "--done", "b", "--shared"],
            "patterns",
            {"done": ["a", "b"], "shared": True, "limit": 20},
        ),
        (["insights", "acme"], "insights", {"limit": 10}),
    ],
)
def test_commands_ask_and_programs_get_the_reply_as_it_came(monkeypatch, stages, arguments, verb, asked):
    class Client:
        async def ask(self, verb, fields):
            given.append((tenant, verb, {name: value for name, value in fields.items() if value is not None}))

    def call(server, creds, to, work):
        nonlocal tenant
        tenant = to
        with pytest.raises(StopIteration):  # nothing is awaited
            work(Client()).send(None)
        return json.dumps(ask(stages, given[-1][1], **given[-1][2])).encode()

    tenant = ""
    given = []
    monkeypatch.setattr(calling, "call", call)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert given == [("acme", verb, asked)]
    assert "fresh" in json.loads(done.stdout)


def test_every_verb_about_procedures_has_a_command():
    commands = get_command(app).commands
    names = [name for name, (request, _) in VERBS.items() if request.__module__ == p.__name__]
    assert len(names) == 7 and set(names) <= set(commands)
    assert procedure_command._scalar("NaN") == "NaN"
