"""Files of shared counts, and the command that merges them."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jetmem.cli import app
from jetmem.console import sharing_files
from jetmem.domain.procedures import federation
from jetmem.domain.procedures.federation import Export, Merged, Shared

BERLIN = Export("berlin", 7, {"plan": Shared(10.0, 9.0), "guess": Shared(4.0, 1.0)})
TOKYO = Export("tokyo", 3, {"plan": Shared(30.0, 15.0)})

COUNTS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.builds(lambda n, s: Shared(n, n * s), st.floats(0, 1e6), st.floats(0, 1)),
    max_size=4,
)
FILES = st.lists(
    st.builds(Export, st.sampled_from(["x", "y.z", "a:b"]), st.integers(0, 3), COUNTS, st.sampled_from([0.0, 0.5])),
    max_size=3,
).map(lambda every: text_of(*every))


def text_of(*exports):
    merged = Merged()
    for each in exports:
        merged = federation.merge(merged, federation.taken(each))
    return sharing_files.text_of(merged)


def together(*texts):
    """What merging files writes."""
    merged = Merged()
    for text in texts:
        merged = federation.merge(merged, sharing_files.decoded(text.encode()))
    return sharing_files.text_of(merged, "mean")


@pytest.fixture
def files(tmp_path):
    def write(**texts):
        paths = []
        for name, text in texts.items():
            path = tmp_path / f"{name}.json"
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            paths.append(str(path))
        return paths

    return write


def merged(*arguments, code=0):
    result = CliRunner().invoke(app, ["procedures", "merge", *arguments])
    assert result.exit_code == code, result.output
    return result.stderr.strip() if code else result.stdout.strip()


@given(FILES, FILES, FILES)
def test_files_are_merged_alike_in_any_order_and_however_often(a, b, c):
    assert together(a, b) == together(b, a)
    assert together(together(a, b), c) == together(a, together(b, c)) == together(a, b, c)
    assert together(a, a) == together(a)
    assert together(together(a, b), b) == together(a, b)


@given(FILES)
def test_what_is_written_is_read(text):
    assert sharing_files.text_of(sharing_files.decoded(text.encode())) == text


def test_merging_averages_by_evidence_and_keeps_every_source(files, tmp_path):
    berlin, tokyo = files(berlin=text_of(BERLIN), tokyo=text_of(TOKYO))
    told = json.loads(merged(berlin, tokyo))
    assert (told["format"], told["how"], [each["source"] for each in told["sources"]]) == (
        1, "mean", ["berlin", "tokyo"]
    )  # fmt: skip
    plan = {"id": "plan", "runs": 40.0, "successes": 24.0, "rate": 0.6, "sources": 2}
    assert told["combined"] == [{"id": "guess", "runs": 4.0, "successes": 1.0, "rate": 0.25, "sources": 1}, plan]
    out = tmp_path / "out.json"
    assert merged(berlin, tokyo, "--out", str(out)) == ""
    assert json.loads(out.read_text()) == told
    merged(str(out), tokyo, "--out", str(out))
    assert json.loads(out.read_text()) == told


def test_one_that_lies_does_not_move_the_median(files):
    honest = {f"h{n}": text_of(Export(f"h{n}", 1, {"plan": Shared(50.0, 40.0)})) for n in range(4)}
    paths = files(**honest, liar=text_of(Export("liar", 1, {"plan": Shared(1e9, 0.0)})))
    (mean,) = json.loads(merged(*paths))["combined"]
    (median,) = json.loads(merged(*paths, "--median"))["combined"]
    assert (mean["runs"], round(mean["rate"], 3)) == (300.0, 0.533)
    assert median["rate"] == 0.8


def test_a_replaced_export_is_told(files):
    older = Export("berlin", 6, {"plan": Shared(1.0, 1.0)})
    other = Export("berlin", 7, {"plan": Shared(2.0, 1.0)})
    for first, second in itertools.permutations((BERLIN, older)):
        result = CliRunner().invoke(app, ["procedures", "merge", *files(a=text_of(first), b=text_of(second))])
        assert "berlin: entry 7 counts, 6 is older" in result.stderr
        assert json.loads(result.stdout)["sources"][0]["version"] == 7
    result = CliRunner().invoke(app, ["procedures", "merge", *files(a=text_of(BERLIN), b=text_of(other))])
    assert "berlin: two exports up to entry 7 differ; one of them counts" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read: "),
        (b"\xff", "cannot be read: "),
        ("[1]", "cannot be read: "),
        ("{}", "is not what `jetmem procedures export` or `merge` writes: it has no format"),
        ('{"format":2,"sources":{}}', "is of format 2; this version of jetmem reads format 1"),
        ('{"format":1}', "missing required field `sources`"),
        ('{"format":1,"sources":[{"source":"a b","version":1,"procedures":{}}]}', "$.sources[0].source"),
        ('{"format":1,"sources":[{"source":"a","version":-1,"procedures":{}}]}', "$.sources[0].version"),
        (
            '{"format":1,"sources":[{"source":"a","version":1,"procedures":{"p":{"runs":1e999,"successes":1}}}]}',
            "cannot be read: ",
        ),
        (
            '{"format":1,"sources":[{"source":"a","version":1,"procedures":{"p":{"runs":-1,"successes":1}}}]}',
            "$.sources[0].procedures[...].runs",
        ),
        ("[" * 100_000, "cannot be read: "),
    ],
)
def test_a_broken_file_is_refused_by_name(files, text, said):
    (path,) = files(broken=text)
    told = merged(path, code=1)
    assert told.startswith(f"jetmem: {path} ") and said in told


def test_a_file_that_cannot_be_opened_or_written(files, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    assert merged(nowhere, code=2) == f"jetmem: {nowhere} cannot be opened: No such file or directory"
    assert "cannot be opened" in merged(str(tmp_path), code=2), "a folder"
    (path,) = files(berlin=text_of(BERLIN))
    assert "cannot be written" in merged(path, "--out", str(tmp_path / "no" / "folder"), code=1)


@pytest.mark.parametrize("epsilon", ["0", "-1", "1e-9", "nan", "inf"])
def test_a_bad_epsilon_is_refused_before_anyone_is_asked(epsilon):
    result = CliRunner().invoke(app, ["procedures", "export", "acme", "--stats", "--epsilon", epsilon])
    assert result.exit_code == 2
    assert "--epsilon must be at least 0.001" in result.stderr


def test_a_bad_source_is_refused():
    result = CliRunner().invoke(app, ["procedures", "export", "acme", "--stats", "--source", "a b"])
    assert result.exit_code == 2
    assert "--source must match" in result.stderr


def test_noise_of_another_epsilon_is_other_noise():
    # else (noised - exact) of both were in the ratio of their epsilons, which gives the exact counts away
    counts = {"p": Shared(1_000.0, 500.0)}
    one, two = (federation.exported("x", 1, counts, e, "key").procedures["p"].successes - 500.0 for e in (0.5, 1.0))
    assert one != pytest.approx(2 * two)


def test_what_sources_say_together_is_shown(monkeypatch, files):
    from jetmem.console import sharing_command

    monkeypatch.setattr(sharing_command, "for_people", lambda as_json: not as_json)
    noisy = federation.exported("tokyo", 3, dict(TOKYO.procedures), 0.5, "key")
    told = merged(*files(berlin=text_of(BERLIN), tokyo=text_of(noisy)))
    assert "procedure" in told.splitlines()[0] and told.splitlines()[1].startswith("plan")
    assert "mean of 2 sources: berlin (entry 7), tokyo (entry 3, noise of epsilon 0.5)" in told


def test_what_leaves_has_to_be_said():
    result = CliRunner().invoke(app, ["procedures", "export", "acme"])
    assert result.exit_code == 2
    assert result.stderr.startswith("jetmem: say what is to be exported: --stats, ")
