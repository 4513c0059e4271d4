"""What `make bench` publishes and asks: real chat where it is at hand, made-up words elsewhere."""

from __future__ import annotations

import gzip
import random
import secrets
from pathlib import Path
from typing import Any, Final

import msgspec

from jetmem.adapters.encoder_samples import REFERENCE_TEXTS
from jetmem.client import Outgoing

#: Beside the project: 100,000 chat messages (irc-disentanglement, CC BY 4.0).
IRC: Final = Path("../shared/data/irc-ubuntu/events.jsonl.gz")
TENANT: Final = "irc"
AGENT: Final = "ubuntu"
EVENTS: Final = 100_000
_SEED: Final = 7
_ASKED_WORDS: Final = (3, 8)
_MADE_WORDS: Final = (4, 24)
_MADE_SESSION: Final = 1_000


class Line(msgspec.Struct, frozen=True):
    """One line as `jetmem load` takes it."""

    session: str
    event: dict[str, Any]


class Data(msgspec.Struct, frozen=True):
    """Events of one tenant, under ids that no run had before, and where they are from."""

    origin: str
    lines: list[Line]

    def outgoing(self) -> list[Outgoing]:
        """For the SDK."""
        return [Outgoing(event=line.event, session=line.session, agent=AGENT) for line in self.lines]

    def texts(self) -> list[str]:
        """What is embedded of each event: who said it and what; equal ones once, in order."""
        spoken = (f"{line.event['author']}: {line.event['text']}" for line in self.lines)
        return list(dict.fromkeys(spoken))

    def questions(self, count: int, seed: int) -> list[str]:
        """A few words in a row from random events, all different: what was asked before is remembered by embed.

        Args:
            count: How many.
            seed: The same gives the same questions for the same events; another gives others.
        """
        dice = random.Random(seed)
        asked: dict[str, None] = {}
        while len(asked) < count:
            words = str(dice.choice(self.lines).event["text"]).split()
            wanted = dice.randint(*_ASKED_WORDS)
            if len(words) >= _ASKED_WORDS[0]:
                start = dice.randint(0, max(0, len(words) - wanted))
                asked[" ".join(words[start : start + wanted])] = None
        return list(asked)


def read(path: Path, count: int) -> Data:
    """The first events of the file, or as many made-up ones where it is missing."""
    mark = secrets.token_hex(3)
    if not path.is_file():
        return Data(f"made-up words ({path} is missing)", _made(count, mark))
    lines: list[Line] = []
    with gzip.open(path) as file:
        for raw in file:
            if len(lines) == count:
                break
            line = msgspec.json.decode(raw, type=Line)
            lines.append(Line(line.session, {**line.event, "id": f"{mark}-{len(lines):06d}"}))
    return Data(str(path), lines)


def _made(count: int, mark: str) -> list[Line]:
    words = " ".join(text for text in REFERENCE_TEXTS if text.isascii()).split()
    dice = random.Random(_SEED)
    return [
        Line(
            f"s{number // _MADE_SESSION}",
            {
                "id": f"{mark}-{number:06d}",
                "author": f"author{number % 40}",
                "text": " ".join(dice.choices(words, k=dice.randint(*_MADE_WORDS))),
            },
        )
        for number in range(count)
    ]
