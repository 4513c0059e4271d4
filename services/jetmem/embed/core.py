"""What embed decides, as pure functions: windows, splits, giving up, replies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from jetmem.runtime import limits
from jetmem.runtime.errors import Poison, RequestFailed
from jetmem_schemas.internal import EmbedJob, EmbedText, EncodeRequest, Vector, VectorsReady

#: What a text can cost at most: the model reads some 256 tokens, whatever follows is cut off.
TEXT_COST_MAX: Final = 1_200
#: A window of full-length texts is cut here: some 200 of them, ten seconds at the slowest precision that serves.
WINDOW_COST_MAX: Final = 256_000
#: Bytes of a vector's key, reason and framing in a reply, at most; keys are hashes of a few dozen bytes.
VECTOR_FRAME_BYTES: Final = 64
#: An asker that did not answer is left alone from here to there; its jobs are delivered again then.
AWAY_FIRST_S: Final = 1.0
AWAY_LAST_S: Final = 30.0
#: A question is one text; a few variants of it are fine, a job in disguise is not.
QUESTION_TEXTS_MAX: Final = 64
QUESTION_BYTES_MAX: Final = 256 * 1024

GAVE_UP: Final = f"gave up after {limits.JOB_GIVE_UP_AFTER} deliveries"
_REPLY: Final = re.compile(r"[A-Za-z0-9_$-]+(\.[A-Za-z0-9_-]+)+")
_decode = msgspec.msgpack.Decoder(EmbedJob).decode


class Failed(NamedTuple):
    """Why a text has no vector."""

    reason: str


#: A vector's bytes, or why there is none.
Result = bytes | Failed


class Answer(NamedTuple):
    """Send these vectors; nothing needs to be encoded."""

    results: dict[str, Result]


class Split(NamedTuple):
    """Put these jobs of one text each into the queue instead of this one."""

    jobs: list[EmbedJob]


class Alone(NamedTuple):
    """Encode this text while nothing else is held."""

    text: str


def read(data: bytes) -> EmbedJob:
    """Decode a job.

    Raises:
        Poison: It is not a job, or names no subject to answer to: nobody can be answered.
    """
    try:
        job = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Poison("bad_field", f"not a job: {error}") from error
    if _REPLY.fullmatch(job.reply) is None:
        raise Poison("bad_field", "the job's reply is not a subject", "reply")
    return job


def cost(job: EmbedJob) -> int:
    """About how many characters the model reads."""
    return sum(min(len(each.text), TEXT_COST_MAX) for each in job.texts)


def deliveries(job: EmbedJob, delivered: int) -> int:
    """How often these texts were delivered, this time included."""
    return max(job.attempts, 0) + delivered


def suspect(times: int) -> bool:
    """Whether a job may be what ended the processes that held it."""
    return times >= limits.JOB_ALONE_AT


def window(waiting: Iterable[tuple[EmbedJob, int]], texts_max: int) -> int:
    """How many jobs from the front are encoded together.

    Args:
        waiting: Jobs in the order they came, which is the askers' fair order, each with its deliveries.
        texts_max: Texts of one window; a single larger job is a window of its own.

    Returns:
        At least 1 unless the first is suspect (or nothing waits): a suspect is never encoded with others.
    """
    count, texts, total = 0, 0, 0
    for job, times in waiting:
        texts += len(job.texts)
        total += cost(job)
        if suspect(times) or (count and (texts > texts_max or total > WINDOW_COST_MAX)):
            break
        count += 1
    return count


def to_encode(jobs: Iterable[EmbedJob], known: Mapping[str, bytes]) -> list[list[str]]:
    """The texts of each job that must be encoded: equal texts once in a window, known ones not at all."""
    seen = set(known)
    groups = []
    for job in jobs:
        group = []
        for each in job.texts:
            if each.text not in seen:
                seen.add(each.text)
                group.append(each.text)
        if group:
            groups.append(group)
    return groups


def narrower(groups: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """How to go on when encoding these groups failed: job by job, then text by text.

    Returns:
        Smaller pieces, each a list of groups; empty if it is one text already.
    """
    if len(groups) > 1:
        return [[list(group)] for group in groups]
    texts = groups[0]
    return [[[text]] for text in texts] if len(texts) > 1 else []


def plan_suspect(job: EmbedJob, times: int, known: Mapping[str, bytes]) -> Answer | Split | Alone:
    """Decide about a job that was delivered `JOB_ALONE_AT` times or more.

    What is known was encoded without harm, so it is answered. A job of several texts is split first, whatever its
    count, so that only a text that was encoded alone can be given up.
    """
    texts = {each.text for each in job.texts}
    lacking = texts - known.keys()
    if not lacking:
        return Answer(dict(known))
    if len(job.texts) > 1:
        attempts = limits.JOB_ALONE_AT
        return Split([EmbedJob(job.tenant, job.reply, [each], attempts) for each in job.texts])
    if times > limits.JOB_GIVE_UP_AFTER:
        return Answer({text: Failed(GAVE_UP) for text in lacking})
    return Alone(job.texts[0].text)


def copy_of(job: EmbedJob, times: int, *, encoded: bool) -> EmbedJob:
    """The job as it goes back into the queue without this delivery being counted.

    Args:
        job: As delivered.
        times: Its deliveries, this one included.
        encoded: Its texts were encoded without harm: all its deliveries are forgiven.
    """
    return EmbedJob(job.tenant, job.reply, job.texts, 0 if encoded else max(times - 1, 0))


def away_s(failures: int) -> float:
    """How long an asker that failed to answer so many times in a row is left alone."""
    return min(AWAY_FIRST_S * 2.0 ** min(max(failures - 1, 0), 16), AWAY_LAST_S)


def replies(
    job: EmbedJob, model: str, results: Mapping[str, Result], bytes_max: int = limits.REPLY_BYTES_MAX
) -> Iterator[VectorsReady]:
    """What the asker is told, in as few requests as fit; at least one, so that it answers even for no texts."""
    part: list[Vector] = []
    size = 0
    for each in job.texts:
        vector = _vector(each, results[each.text])
        grown = len(vector.data) + len(vector.key) + len(vector.reason) + VECTOR_FRAME_BYTES
        if part and size + grown > bytes_max:
            yield VectorsReady(job.tenant, model, part)
            part, size = [], 0
        part.append(vector)
        size += grown
    yield VectorsReady(job.tenant, model, part)


def check_question(request: EncodeRequest) -> None:
    """Refuse what is no question.

    Raises:
        RequestFailed: `too_large`.
    """
    if len(request.texts) > QUESTION_TEXTS_MAX:
        raise RequestFailed("too_large", f"at most {QUESTION_TEXTS_MAX} texts are encoded at once", "texts")
    if sum(len(text) for text in request.texts) > QUESTION_BYTES_MAX:
        raise RequestFailed("too_large", f"the texts are longer than {QUESTION_BYTES_MAX} characters", "texts")


def _vector(text: EmbedText, result: Result) -> Vector:
    if isinstance(result, Failed):
        return Vector(text.key, b"", result.reason)
    return Vector(text.key, result)
