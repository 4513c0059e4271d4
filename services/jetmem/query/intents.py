"""What a question is after, by its words; pure, simple and written down, so that people can foretell it.

| intent | words | strategies, in order |
| --- | --- | --- |
| time-boxed | a time (`times`): "last week", "on 8 May", "in March" | within that time: toc if it asks for no more, or explores; else hybrid; then the same at any time, unless the time is all |
| explore | "what did we talk about", "what happened", "summarize", "overview", "topics", "tell me about" | toc, hybrid |
| locate | "when", "where", "which", "who", "exactly", "find"; words in quotation marks | text if something is quoted, else hybrid |
| answer | all others | hybrid |

Where an index is down, hybrid becomes text, then a walk down the table of contents, then the most recent events; `search`
does that by itself.
"""  # noqa: E501 (a table)

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, Literal

import msgspec

from jetmem.adapters.tantivy_text import analyze
from jetmem.query.times import Span, span_in

Intent = Literal["explore", "answer", "locate", "time-boxed"]
_EXPLORE: Final = re.compile(
    r"\bwhat\b.{0,20}\b(?:we|us|you|everyone|everybody|people)\b.{0,20}"
    r"\b(?:talk|discuss|chat|speak|work|do|doing|done|up to)"
    r"|\bwhat(?:'s| is| was| has been| have been) (?:new|going on|happening)\b|\bwhat happened\b(?! to\b| with\b)"
    r"|\b(?:summari[sz]e|summary|overview|recap|catch me up|bring me up|topics|highlights|history of)\b"
    r"|\b(?:tell|remind) me (?:about|of|what)\b|\bwhat do you know\b",
    re.IGNORECASE,
)
_LOCATE: Final = re.compile(
    r"\b(?:when|where|which|who|whose|exactly|exact|verbatim|find|locate|word for word)\b", re.IGNORECASE
)
_QUOTED: Final = re.compile(r"[\"“”«»].{2,}?[\"“”«»]")
#: Words that ask, and say nothing of what is asked for.
_ASKING: Final = frozenset(
    analyze(
        "talk talked talking discuss discussed chat speak spoke say said do did done happen happened going go new work "
        "worked summarize summarise summary overview recap catch bring topic theme highlight history tell remind know "
        "show list give find everything anything something thing things please recently lately time conversation "
        "conversations session sessions remember we us let events event been up on "
        # what is left of a time that was not understood whole
        "morning afternoon evening night noon midnight am pm hour day week weekend month quarter year first second "
        "third early late around between"
    )
)


class Intended(msgspec.Struct, frozen=True):
    """What a question is after.

    `about` are its words but those that ask and those that name the time, as the table of contents knows words, `words`
    those that name the time, too; `rest` the question without the time.
    """

    intent: Intent
    explores: bool
    quoted: bool
    about: list[str]
    words: list[str]
    rest: str
    span: Span | None


def intended(query: str, now: datetime) -> Intended:
    """Judge a question asked at `now`, which says the asker's zone too."""
    span = span_in(query, now)
    rest = query if span is None else span.rest
    about, words = ([word for word in analyze(text) if word not in _ASKING] for text in (rest, query))
    quoted = bool(_QUOTED.search(query))
    explores = bool(_EXPLORE.search(rest)) and not quoted
    if span is not None:
        intent: Intent = "time-boxed"
    elif explores:
        intent = "explore"
    else:
        intent = "locate" if quoted or _LOCATE.search(rest) else "answer"
    return Intended(intent, explores or (span is not None and not about), quoted, about, words, rest, span)
