"""Baselines of eval-toc: what bullets find, by how they were chosen."""

import pytest
from rich.console import Console

from jetmem.adapters.tantivy_text import analyze
from jetmem.domain.extract import Said
from jetmem.evaluation import toc
from jetmem.evaluation.locomo import Question
from jetmem.evaluation.metrics import spread
from jetmem.evaluation.toc_baselines import PICKS, Baselines, Segment
from jetmem.evaluation.toc_metrics import Coverage

FILLERS = ["Well hello there everybody now.", "That sounds nice to me.", "It certainly was quite fun."]


def segment(name, telling):
    texts = [*FILLERS, telling, *FILLERS, "Goodbye and good night then."]
    return Segment([Said(f"{name}{n}", n * 1_000, text, "Ann") for n, text in enumerate(texts)])


@pytest.fixture
def baselines():
    told = ["The violin broke in Lisbon.", "A copper lantern hangs in the harbour.", "Nora planted 40 tulips."]
    return Baselines({"a": [segment(f"s{n}-", text) for n, text in enumerate(told)]}, analyze)


QUESTIONS = [
    Question("a", "Where did the violin break?", ["s0-3"], 1),
    Question("a", "How many tulips did Nora plant?", ["s2-3"], 1),
]


def test_the_whole_text_finds_what_its_first_sentence_does_not(baselines):
    full, lead = (baselines.row(QUESTIONS, PICKS[name]) for name in ("full text", "lead-k"))
    assert full.coverage == Coverage(1.0, 1.0, 1.0, 2)
    assert (full.cited, lead.cited) == (1.0, 0.0)
    assert lead.coverage.at_1 < 1.0
    assert full.repeated > lead.repeated == 0.0


def test_random_is_the_same_each_time(baselines):
    assert baselines.row(QUESTIONS, PICKS["random"]) == baselines.row(QUESTIONS, PICKS["random"])


def test_the_report_says_whether_the_goal_is_reached(baselines):
    row = baselines.row(QUESTIONS, PICKS["ours, by words"])
    walked = toc.Walked(Coverage(0.5, 0.81, 0.9, 2), 12.0, spread([0.001, 0.002]), 0)
    report = toc.Report("x", 24, 2, {"year": 1}, {"cores": "2"}, {"stored": 0.1}, {"walk": walked}, {"ours": row})
    console = Console(record=True, width=120)
    toc.show(console, report)
    text = console.export_text()
    assert "0.810" in text
    assert "walk reached with 0.810" in text
