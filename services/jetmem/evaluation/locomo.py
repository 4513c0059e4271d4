"""The public LoCoMo file as events and questions of ours; where the data is, and what to say if it is missing.

LoCoMo (Maharana et al., 2024; github.com/snap-research/locomo, CC BY-NC 4.0): evaluate with it, never ship it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

EVENTS_FILE: Final = "events.jsonl"
QUESTIONS_FILE: Final = "questions.jsonl"
#: Beside the project: where its evaluation data lies.
DATA: Final = Path("../shared/data/locomo-dev")
AGENT: Final = "chat"
#: LoCoMo gives a time to sessions only.
TURN_S: Final = 30
ID_CHARS: Final = 16
_DIALOG: Final = re.compile(r"D\s*:?\s*(\d+)\s*:\s*(\d+)")
_SESSION: Final = re.compile(r"session_(\d+)")
_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_TIME: Final = re.compile(r"(\d{1,2}):(\d{2})\s*([ap])\.?m\.?\s+on\s+(\d{1,2})\s+(\w+),?\s+(\d{4})", re.IGNORECASE)


class Missing(Exception):
    """There is no data; the message says in one sentence how to get it."""


class BadFile(Exception):
    """A file is not what it should be."""


class Question(msgspec.Struct, frozen=True):
    """One question, and the ids of the events that hold its answer (at least one)."""

    tenant: str
    question: str
    evidence: list[str]
    category: int


class Converted(msgspec.Struct, frozen=True):
    """Lines for `jetmem load`, questions, and how many questions name no turn that exists."""

    events: list[dict[str, Any]]
    questions: list[Question]
    without_evidence: int


def how_to_get(path: Path) -> str:
    """What to do where the data is missing."""
    return (
        f"{path} does not exist; the public file is data/locomo10.json in the GitHub repository snap-research/locomo"
        " (CC BY-NC 4.0): download it and run make eval LOCOMO=locomo10.json"
    )


def questions_of(folder: Path) -> list[Question]:
    """The questions of a data folder, which holds `events.jsonl` too.

    Raises:
        Missing: One of the files is not there.
        BadFile: A line is no question, or names no evidence.
    """
    for name in (EVENTS_FILE, QUESTIONS_FILE):
        if not (folder / name).is_file():
            raise Missing(how_to_get(folder / name))
    found = []
    lines = (folder / QUESTIONS_FILE).read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=Question))
        except msgspec.DecodeError as error:
            raise BadFile(f"{folder / QUESTIONS_FILE} line {number}: {error}") from error
        if not found[-1].evidence:
            raise BadFile(f"{folder / QUESTIONS_FILE} line {number}: no evidence")
    return found


def write(converted: Converted, folder: Path) -> None:
    """Write both files as this project reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / EVENTS_FILE, converted.events)
    _write_lines(folder / QUESTIONS_FILE, converted.questions)


def _write_lines(path: Path, lines: Iterable[Any]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def convert_file(path: Path) -> Converted:
    """Convert `locomo10.json`.

    Raises:
        Missing: There is no such file.
        BadFile: It is not in LoCoMo's form.
    """
    if not path.is_file():
        raise Missing(how_to_get(path))
    try:
        converted = convert(msgspec.json.decode(path.read_bytes()))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadFile(f"{path} is not in the form of locomo10.json: {type(error).__name__} {error}") from error
    if not converted.events or not converted.questions:
        raise BadFile(f"{path} is not in the form of locomo10.json: it holds no turns, or no questions with evidence")
    return converted


def convert(samples: list[dict[str, Any]]) -> Converted:
    """Convert samples: each becomes a tenant, so that it can be searched alone.

    Ids are opaque, so that no ranking can profit from them; a caption follows its turn's text.

    Raises:
        KeyError: A part is missing; TypeError, ValueError: or has another form.
    """
    events: list[dict[str, Any]] = []
    questions: list[Question] = []
    without = 0
    for number, sample in enumerate(samples):
        name = str(sample.get("sample_id", number))
        ids: dict[tuple[int, int], str] = {}
        for place, line in _turns(f"locomo-{number}", name, sample["conversation"]):
            ids[place] = line["event"]["id"]
            events.append(line)
        for asked in sample["qa"]:
            evidence = _evidence(asked.get("evidence"), ids)
            without += not evidence
            if evidence:
                questions.append(Question(f"locomo-{number}", str(asked["question"]), evidence, int(asked["category"])))
    return Converted(events, questions, without)


def _turns(tenant: str, sample: str, conversation: dict[str, Any]) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    numbers = sorted(int(m[1]) for m in map(_SESSION.fullmatch, conversation) if m and conversation[m[0]])
    for number in numbers:
        at = parse_time(conversation[f"session_{number}_date_time"])
        for turn in conversation[f"session_{number}"]:
            place = dialog_ids(turn["dia_id"])[0]
            event = {
                "id": opaque_id(sample, *place),
                "ts": at.isoformat() + "Z",
                "kind": "message",
                "role": "user",
                "author": str(turn["speaker"]),
                "text": said(turn),
            }
            yield place, {"tenant": tenant, "agent": AGENT, "session": f"s{number}", "event": event}
            at += timedelta(seconds=TURN_S)


def said(turn: dict[str, Any]) -> str:
    """A turn's text, and what its picture shows."""
    caption = turn.get("blip_caption")
    text = str(turn.get("text") or "")
    return f"{text} [image: {caption}]".strip() if caption else text


def dialog_ids(text: str) -> list[tuple[int, int]]:
    """Session and turn of every `D<session>:<turn>` in a text; the public file has `D8:6; D9:17` and `D30:05`, too."""
    return [(int(session), int(turn)) for session, turn in _DIALOG.findall(text)]


def opaque_id(sample: str, session: int, turn: int) -> str:
    """An id that says nothing, the same at each conversion."""
    return hashlib.sha256(f"{sample}/{session}/{turn}".encode()).hexdigest()[:ID_CHARS]


def parse_time(text: str) -> datetime:
    """`1:56 pm on 8 May, 2023`, whatever the machine's language.

    Raises:
        ValueError: It is no such time.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or found[5].lower() not in _MONTHS:
        raise ValueError(f"{text!r} is no time like '1:56 pm on 8 May, 2023'")
    hour = int(found[1]) % 12 + (12 if found[3].lower() == "p" else 0)
    return datetime(int(found[6]), _MONTHS.index(found[5].lower()) + 1, int(found[4]), hour, int(found[2]))


def _evidence(raw: object, ids: dict[tuple[int, int], str]) -> list[str]:
    texts = raw if isinstance(raw, list) else [raw]
    places = [place for text in texts for place in dialog_ids(str(text))]
    return list(dict.fromkeys(ids[place] for place in places if place in ids))
