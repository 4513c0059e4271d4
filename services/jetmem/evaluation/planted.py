"""A small made-up memory in which facts are corrected and repeated: what supersession and folding do.

It shows that they do what they are for, and turns nothing on: whoever plants the questions knows the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from jetmem.domain import ranking
from jetmem.evaluation.gathered import Gathered
from jetmem.evaluation.locomo import Question
from jetmem.evaluation.options import shown_scores
from jetmem_schemas.ranking import Rank

TENANT: Final = "planted"
_AGENT: Final = "chat"
_START: Final = datetime(2026, 1, 5, 9, tzinfo=UTC)
_FACTS: Final = (
    ("Who is {0}'s dentist?", "{0}'s dentist is Doctor {1}", "{0}'s dentist is Doctor {2} now", "Klein", "Weber"),
    ("Where does {0} park the car?", "{0} parks the car in {1}", "{0} parks the car in {2}", "Oak Street", "Mill Lane"),
    (
        "Which train does {0} take?",
        "{0} takes the {1} train to work",
        "{0} takes the {2} train to work",
        "7:10",
        "8:40",
    ),
    ("What is {0}'s door code?", "The code of {0}'s door is {1}", "The code of {0}'s door is {2}", "4711", "9032"),
)
_PEOPLE: Final = ("Mara", "Jonas", "Lena", "Oskar", "Ruth", "Felix")
#: The topic, what is said of it over and over, and what is said once.
_REPEATED: Final = (
    ("standup", "Reminder: the standup is at nine in the blue room", (
        "No standup on Fridays, we write instead", "The standup notes go into the wiki",
        "Whoever comes late to the standup brings cake", "The standup was once an hour long", )),
    ("backup", "The nightly backup finished without errors", (
        "The backup key lies in the safe on the second floor", "The backup of the mail server runs on Sundays",
        "Restoring the backup took four hours in March", "The backup disks are changed by Felix", )),
    ("lunch", "Lunch is ordered at eleven, tell me what you want", (
        "The lunch place behind the station is closed", "Lunch on Wednesdays is vegetarian",
        "Lunch with the customer is on the third of May", "Ruth does not eat lunch when she fasts", )),
)  # fmt: skip
#: More than a page, so that repeats push out what was said once.
_REPEATS: Final = 12
_SMALL_TALK: Final = (
    "It rained the whole weekend", "The printer is out of paper again", "I will call you after the meeting",
    "The train was late, sorry", "We should paint the kitchen one day", "That film was longer than I thought",
)  # fmt: skip


class Row(msgspec.Struct, frozen=True):
    """One way of ranking.

    Attributes:
        current_first: Share of the questions about changed facts where what holds now stands above what held before
            (or the old one is not shown on its own).
        stale: Share of them where what held before is on the first page.
        recall_10: Of the facts said once, beside what is said over and over, on the first page.
    """

    current_first: float
    stale: float
    recall_10: float


class Planted(msgspec.Struct, frozen=True):
    """The made-up memory: lines as of `events.jsonl`, questions, and by question of a changed fact, (old, new)."""

    events: list[dict[str, Any]]
    questions: list[Question]
    changed: dict[str, tuple[str, str]]


#: What is compared: each option as it is when somebody turns it on.
WAYS: Final = {
    "all off": Rank(),
    "supersession": Rank(supersede=True),
    "folding": Rank(fold=True),
    "supersession and folding": Rank(supersede=True, fold=True),
}


def planted() -> Planted:
    """Always the same: half of the changed facts are corrected by name (`supersedes`), half are just said anew."""
    said: list[tuple[str, str, str | None]] = []
    later: list[tuple[str, str, str | None]] = []
    questions: list[Question] = []
    changed: dict[str, tuple[str, str]] = {}
    for number, (person, fact) in enumerate((person, fact) for person in _PEOPLE for fact in _FACTS):
        asked, before, now, *values = fact
        old, new = f"old-{number}", f"new-{number}"
        said.append((old, before.format(person, *values), None))
        later.append((new, now.format(person, *values), old if number % 2 else None))
        question = asked.format(person)
        questions.append(Question(TENANT, question, [new], 0))
        changed[question] = (old, new)
    for topic, repeat, facts in _REPEATED:
        once = [(f"{topic}-{number}", fact, None) for number, fact in enumerate(facts)]
        repeats = [(f"{topic}-again-{number}", repeat, None) for number in range(_REPEATS)]
        said += [*once, *repeats]
        questions.append(Question(TENANT, f"What is there to know of the {topic}?", [i for i, *_ in once], 1))
    return Planted(_lines([*said, *later]), questions, changed)


def _lines(said: Sequence[tuple[str, str, str | None]]) -> list[dict[str, Any]]:
    """Eight a day with small talk between, so that nothing stands beside its own correction."""
    lines: list[dict[str, Any]] = []
    for number, (id_, text, supersedes) in enumerate(said):
        for name, told in ((id_, text), (f"talk-{number}", _SMALL_TALK[number % len(_SMALL_TALK)])):
            at = _START + timedelta(days=number // 4, minutes=len(lines))
            event = {"id": name, "ts": at.isoformat(), "text": told, "author": "Sam"}
            if supersedes and name == id_:
                event["supersedes"] = supersedes
            lines.append({"tenant": TENANT, "agent": _AGENT, "session": f"d{number // 4}", "event": event})
    return lines


def measure(gathered: Sequence[Gathered], made: Planted) -> dict[str, Row]:
    """Each of `WAYS` over the candidates of `made.questions`."""
    return {name: _row(gathered, made, options) for name, options in WAYS.items()}


def _row(gathered: Sequence[Gathered], made: Planted, options: Rank) -> Row:
    first, stale, recalls = [], [], []
    for each in gathered:
        if each.question.question not in made.changed:
            recalls.append(shown_scores(each, options)[0])
            continue
        shown = [each.ids[placed.at] for placed in ranking.rank(each.candidates, options)]
        old, new = (shown.index(id_) if id_ in shown else len(shown) for id_ in made.changed[each.question.question])
        first.append(new < old)
        stale.append(old < 10)
    return Row(*(sum(values) / max(1, len(values)) for values in (first, stale, recalls)))
