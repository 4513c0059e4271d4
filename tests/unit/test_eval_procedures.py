"""Figures of eval-procedures, and its goals where the data is there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jetmem.evaluation import procedures as command
from jetmem.evaluation import procedures_cold, procedures_data, procedures_folds, procedures_retrieval
from jetmem.evaluation import show as screen
from jetmem.evaluation.locomo import Missing
from jetmem.evaluation.procedures_scores import (
    BINS,
    RESAMPLES,
    Figure,
    auc,
    calibration,
    difference,
    figure,
    picked,
    score,
)

GROUP = np.arange(4)


def test_scores_of_a_known_table():
    successes, runs = np.array([[1.0, 0], [0, 1], [1, 0], [1, 1]]), np.ones((4, 2))
    sure = score(successes, successes, runs, GROUP)
    assert sure.pick.value == 1.0
    assert sure.auc == Figure(1.0, 1.0, 1.0)
    assert sure.log_loss is not None
    assert sure.log_loss.value == pytest.approx(-np.log(0.98) * 2 / 2)
    assert sure.brier is not None
    assert sure.brier.value == pytest.approx(0.02**2)
    half = score(np.full((4, 2), 0.5), successes, runs, GROUP)
    assert half.log_loss is not None
    assert half.log_loss.value == pytest.approx(np.log(2))
    assert half.log_loss.low == pytest.approx(half.log_loss.high)


def test_what_was_not_run_is_not_picked():
    runs = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert picked(np.array([[0.1, 0.9]] * 4), runs, runs, GROUP).value == 1.0


def test_calibration_and_resampling():
    assert calibration(np.array([0.25, 0.25]), np.array([0.0, 1.0]), np.arange(2)).value == pytest.approx(0.25)
    found = figure(np.array([1.0, 0, 0, 1]), np.ones(4), np.array([0, 0, 1, 1]))
    assert found.value == 0.5
    assert found.low <= 0.5 <= found.high


def test_intervals_are_those_of_resamples_made_one_by_one():
    rng = np.random.default_rng(2)
    group = rng.integers(0, 12, 40)
    group[:12] = np.arange(12)
    runs = rng.integers(0, 4, (40, 5)) * 1.0
    successes = np.minimum(runs, rng.integers(0, 4, (40, 5)))
    said = np.round(rng.uniform(0.1, 0.9, (40, 5)), 1)
    found = score(said, successes, runs, group)

    def plain(rows):
        s, n, p = successes[rows], runs[rows], said[rows]
        had = n > 0
        rate, bins = s[had] / n[had], np.minimum((p[had] * BINS).astype(int), BINS - 1)
        best = np.where(had, p, -1.0).argmax(1)
        won = [(s / np.maximum(n, 1))[row, at] for row, at in enumerate(best)]
        gaps = [abs((p[had] - rate)[bins == each].sum()) for each in range(BINS)]
        return (
            -(s * np.log(p) + (n - s) * np.log(1 - p)).sum() / n.sum(),
            np.average(np.square(p[had] - rate), weights=n[had]),
            roc_auc_score(rate > 0.5, p[had]),
            sum(gaps) / had.sum(),
            sum(won) / had.any(1).sum(),
        )

    drawn = np.random.default_rng(5).integers(0, 12, (RESAMPLES, 12))
    resampled = [plain(np.concatenate([np.flatnonzero(group == each) for each in draws])) for draws in drawn]
    bounds = np.quantile(resampled, (0.025, 0.975), axis=0).T
    shown = (found.log_loss, found.brier, found.auc, found.calibration, found.pick)
    for each, value, (low, high) in zip(shown, plain(np.arange(40)), bounds, strict=True):
        assert (each.value, each.low, each.high) == pytest.approx((value, low, high))


def test_who_loses_more_is_told_by_the_sign():
    first, second, weight = np.array([3.0, 1, 4]), np.array([1.0, 1, 1]), np.array([1.0, 2, 1])
    found = difference(first, second, weight, np.arange(3))
    assert found.value == pytest.approx(5 / 4) and found.low == 0.0 and found.high == pytest.approx(3.0)
    assert difference(second, first, weight, np.arange(3)).value == -found.value


def test_outcomes_that_are_all_alike_have_no_area():
    assert auc(np.array([0.2, 0.8]), np.array([True, True]), np.arange(2)) is None
    few = auc(np.array([0.2, 0.8]), np.array([False, True]), np.arange(2))
    assert few == Figure(1.0, 1.0, 1.0), "resamples of one kind alone tell nothing"


def test_missing_data_is_said(tmp_path):
    with pytest.raises(Missing, match=r"tasks\.jsonl"):
        procedures_data.load(tmp_path)


@pytest.mark.parametrize("option", ["--plot", "--json"])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, monkeypatch, capsys, option):
    monkeypatch.setattr(command, "measure", lambda *_, **__: pytest.fail("it began to measure"))
    (tmp_path / "file").write_text("not a folder")
    wanted = tmp_path / "file" / "figures"
    monkeypatch.setattr("sys.argv", ["eval-procedures", option, str(wanted)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"jetmem eval-procedures: {wanted} cannot be written (")
    assert "Traceback" not in told
    screen.writable(tmp_path / "new" / "figures", None)
    assert [*(tmp_path / "new").iterdir()] == [], "the folder is made, and no file left in it"


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """The smaller data set, its vectors made up: what is tested is the machinery."""
    source = Path(__file__).parents[2] / procedures_data.FOLDERS[1]
    if not source.is_dir():
        pytest.skip(f"no evaluation data at {procedures_data.FOLDERS[1]}")
    folder = tmp_path_factory.mktemp("data") / source.name
    shutil.copytree(source, folder)
    made = pytest.MonkeyPatch()
    rng = np.random.default_rng(1)
    made.setattr(
        procedures_data,
        "vectors",
        lambda texts: (lambda v: v / np.linalg.norm(v, axis=1, keepdims=True))(
            rng.normal(size=(len(texts), 16)).astype(np.float32)
        ),
    )
    yield procedures_data.load(folder)
    made.undo()


def test_vectors_that_mean_nothing_do_no_harm(bash):
    found = procedures_folds.measure(bash)
    plain, ours = found.ways["global best"].log_loss, found.ways[command.OURS].log_loss
    assert plain is not None
    assert ours is not None
    assert plain.value == pytest.approx(0.572, abs=0.001)
    assert ours.value <= plain.value + command.HARM_MAX
    assert found.ways["oracle"].pick.value == pytest.approx(0.66)
    assert "reached" in command.judged(found)
    first, second = command.folds_tables(found)
    assert (len(first.rows), len(second.rows)) == (len(found.ways), len(found.ways) - 2), "two give no probability"
    console = screen.console()
    assert max(console.measure(each).maximum for each in (first, second)) <= 100
    assert procedures_retrieval.measure(bash) is None


def test_cold_procedures_are_seen_in_three_runs(bash):
    kept = procedures_cold._but_few(bash, list(range(len(bash.runs))), 2)
    assert sum(bash.runs[each].procedure == bash.procedures[2] for each in kept) == procedures_cold.RUNS
