"""The judgement of ranking options: helps, harms, depends; and the made-up memory."""

import json

import msgspec
import numpy as np
import pytest

from jetmem.domain import ranking
from jetmem.evaluation import planted
from jetmem.evaluation.gathered import Gathered
from jetmem.evaluation.locomo import Question
from jetmem.evaluation.options import GRIDS, TOGETHER, judge
from jetmem_schemas.events import decode
from jetmem_schemas.ranking import Rank

COUNT = 12


def gathered(tenant, evidence, *, lasting=(), ts=None):
    """Candidates `c0` … in the order of the fusion, which scores them nearly alike."""
    return Gathered(
        Question(tenant, "q", [f"c{evidence}"], 1),
        [f"c{n}" for n in range(COUNT)],
        ranking.Candidates(
            score=np.linspace(0.5, 0.489, COUNT),
            ts=np.array(ts or [0] * COUNT, dtype=np.int64),
            order=np.arange(COUNT),
            importance=np.full(COUNT, np.nan),
            lasting=np.array([n in lasting for n in range(COUNT)]),
            corrected=np.zeros(COUNT, dtype=np.bool_),
            likeness=np.eye(COUNT, dtype=np.float32),
        ),
    )


def every(**how):
    return [gathered(f"t{n % 3}", 11, **how) for n in range(30)]


def test_an_option_that_helps_everywhere_is_on_and_one_that_does_nothing_is_off():
    report = judge(every(lasting=[11]))
    assert (report.recall_10, report.ndcg_10) == (0, 0), "the evidence is the last of all"
    salience = report.options["salience"]
    assert salience.on
    assert salience.recall_10.mean == salience.recall_10.low == 1
    assert salience.recall_10.folds == {"t0": 1, "t1": 1, "t2": 1}
    folding = report.options["folding"]
    assert not folding.on
    assert folding.recall_10.mean == folding.ndcg_10.high == 0
    assert TOGETHER not in report.options, "only one gains"


def test_an_option_that_harms_is_off_although_it_was_tuned():
    report = judge([gathered(f"t{n % 3}", 0, lasting=range(1, COUNT)) for n in range(30)])
    assert not report.options["salience"].on
    assert report.options["salience"].ndcg_10.mean == report.options["salience"].ndcg_10.high < -0.5


def test_what_helps_in_one_conversation_only_is_not_seen_where_it_was_tuned():
    """Tuned on the two that it harms, measured on the one that it helps, and the other way round."""
    helped = [gathered("t0", 11, lasting=[11]) for _ in range(10)]
    harmed = [gathered(f"t{1 + n % 2}", 0, lasting=range(1, COUNT)) for n in range(20)]
    salience = judge([*helped, *harmed]).options["salience"]
    assert salience.recall_10.folds["t0"] == 1
    assert salience.ndcg_10.folds["t1"] < 0
    assert salience.ndcg_10.mean < 0 < salience.recall_10.low, "one measure alone turns nothing on"
    assert not salience.on


def test_what_gains_is_tried_together():
    ts = [0] * 11 + [10**11]
    report = judge(every(lasting=[11], ts=ts))
    assert report.options["age"].on
    assert report.options["salience"].on
    chosen = report.options[TOGETHER].chosen["t0"]
    assert chosen.salience > 0
    assert chosen.age_half_life_days > 0


def test_one_conversation_is_not_judged():
    assert judge([gathered("t0", 1)]) is None


def test_the_same_questions_give_the_same_figures():
    mixed = [*every(lasting=[11])[:20], *(gathered(f"t{n % 3}", 0, lasting=range(1, COUNT)) for n in range(10))]
    assert judge(mixed) == judge(mixed)
    salience = judge(mixed).options["salience"].recall_10
    assert salience.low < salience.mean < salience.high


@pytest.mark.parametrize("name", GRIDS)
def test_grids_hold_what_was_proposed_and_one_option_each(name):
    assert all(ranking.active(each) for each in GRIDS[name])
    assert len(set(GRIDS[name])) == len(GRIDS[name])
    fields = {field for each in GRIDS[name] for field in json.loads(msgspec.json.encode(each))}
    assert len(fields & {"salience", "age_half_life_days", "supersede", "fold"}) == 1


def test_the_made_up_memory_is_in_the_form_of_the_data():
    made = planted.planted()
    ids = [line["event"]["id"] for line in made.events]
    assert len(ids) == len(set(ids))
    for line in made.events:
        decode("event", json.dumps(line["event"]).encode())
    assert all(set(question.evidence) <= set(ids) for question in made.questions)
    named = [line["event"]["supersedes"] for line in made.events if "supersedes" in line["event"]]
    assert len(named) == len(made.changed) / 2
    place = {id_: number for number, id_ in enumerate(ids)}
    assert all(place[old] < place[new] for old, new in made.changed.values())
    assert made == planted.planted()


def test_rows_of_the_made_up_memory():
    made = planted.planted()
    question = made.questions[0]
    old, new = made.changed[question.question]
    likeness = np.array([[1, 0.9], [0.9, 1]], dtype=np.float32)
    pair = gathered("planted", 0).candidates
    candidates = ranking.Candidates(
        score=np.array([0.6, 0.58]),
        ts=np.array([1, 2]),
        order=np.array([1, 2]),
        importance=pair.importance[:2],
        lasting=pair.lasting[:2],
        corrected=np.array([False, False]),
        likeness=likeness,
    )
    rows = planted.measure([Gathered(question, [old, new], candidates)], made)
    assert {name: row.current_first for name, row in rows.items()} == {
        "all off": 0,
        "supersession": 1,
        "folding": 0,
        "supersession and folding": 1,
    }
    assert rows["all off"].stale == 1
    assert Rank() == planted.WAYS["all off"]
