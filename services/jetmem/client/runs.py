"""A run written down while it goes on, and reported when it is over, however it ends.

    async with memory.run("make the tests pass", session="s1", procedure="plan-then-code") as run:
        run.step("pytest", input={"path": "tests"}, ok=False, ms=1200)
        run.lesson("read the log first")

It succeeded if its block came to its end and nobody said `fail`. An exception makes it fail, is told as its failure,
and goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, NoReturn

import msgspec

from jetmem.client.errors import ClientError, Refused
from jetmem.client.outgoing import Outgoing, Prepared
from jetmem.client.publishing import Receipt
from jetmem_schemas import events
from jetmem_schemas.errors import SchemaError

log = logging.getLogger("jetmem.client")
STEPS_MAX: Final = 1_000
LESSONS_MAX: Final = 64
LESSON_CHARS_MAX: Final = 4_096
#: Of a failure's text; what a trace says beyond is for logs.
FAILURE_CHARS_MAX: Final = 4_096
#: Of the inputs of all steps: half of what a message may hold.
INPUTS_BYTES_MAX: Final = events.PAYLOAD_BYTES_MAX // 2
#: Who is cancelled, or interrupted by a key, is not kept longer by a broker that does not answer.
CANCELLED_S: Final = 5.0
#: Objects around a step's input.
_ABOVE_INPUT: Final = b"[" * 3
_REPR_CHARS_MAX: Final = 1_000
Prepare = Callable[[Outgoing], Prepared]
Publish = Callable[[Outgoing, float | None], Awaitable[Receipt]]
StepGiven = str | Mapping[str, Any] | events.Step
_step: Final = msgspec.json.Decoder(events.Step).decode


def _repr(value: Any) -> str:
    try:
        return repr(value)[:_REPR_CHARS_MAX]
    except Exception:  # nor must an object that cannot be shown
        return f"({type(value).__name__})"


_encode: Final = msgspec.json.Encoder(enc_hook=_repr).encode


def given_steps(steps: Iterable[StepGiven]) -> list[Mapping[str, Any] | events.Step]:
    """Steps as they are published; a name alone is its tool.

    Raises:
        Refused: One name or one step instead of a list; letters of a name would become steps.
    """
    if isinstance(steps, str | bytes | Mapping):
        raise Refused("bad_field", 'steps must be a list, as ["plan", "edit"], not one text or step', "steps")
    return [{"tool": each} if isinstance(each, str) else each for each in steps]


class RunRecorder:
    """What is written down of one run.

    Attributes:
        id: The run's, known before it ends.
        receipt: Once it is on disk.
        unreported: Why it is not, where an exception of the block goes on instead; a `NotStored` carries the run.
    """

    def __init__(self, prepare: Prepare, run: Mapping[str, Any], session: str, agent: str | None) -> None:
        """Check what is known already, so that no work is done for a run that would never be stored.

        Raises:
            Refused: A field, the session or the agent is wrong.
        """
        self._prepare = prepare
        self._session = session
        self._agent = agent
        self._steps: list[events.Step] = []
        self._steps_done = self._input_bytes = 0
        self._success = True
        self._failure = ""
        self._begun: float | None = None
        self.receipt: Receipt | None = None
        self.unreported: ClientError | None = None
        given = {name: value for name, value in run.items() if value is not None}
        first = prepare(self._outgoing({**given, "success": True}))
        self.id = first.id
        #: As it is now: what the caller does to his dictionaries later is not reported.
        self._run: dict[str, Any] = msgspec.json.decode(first.payload)
        self._lessons = self._run.pop("lessons", [])

    @property
    def reward(self) -> float | None:
        """How good it was, 0 to 1."""
        reward: float | None = self._run.get("reward")
        return reward

    @reward.setter
    def reward(self, value: float) -> None:
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise Refused("bad_field", f"reward must be a number from 0 to 1, not {value!r:.64}", "reward")
        self._run["reward"] = value

    @property
    def cost(self) -> float | None:
        """What it cost, in whatever unit the tenant counts."""
        cost: float | None = self._run.get("cost")
        return cost

    @cost.setter
    def cost(self, value: float) -> None:
        if not isinstance(value, int | float):
            raise Refused("bad_field", f"cost must be a number, not {value!r:.64}", "cost")
        self._run["cost"] = value

    def step(
        self,
        tool: str,
        *,
        input: Any = None,  # noqa: A002 - the field's name in the message
        ok: bool | None = None,
        ms: float | None = None,
    ) -> None:
        """Write down one step, once it is done.

        Args:
            tool: What was used, at most 256 characters.
            input: With what, as it is now; what JSON cannot say is written as its `repr`. Inputs of all steps beyond
                512 KiB are left out, and so are steps beyond 1,000: the run is reported all the same.
            ok: Whether it worked.
            ms: How long it took.

        Raises:
            Refused: A field has a wrong type or range.
        """
        given = {"tool": tool, "ok": ok, "ms": ms}
        try:
            said = msgspec.json.encode({name: value for name, value in given.items() if value is not None})
            step = events.decode_json(said, _step)
        except SchemaError as error:
            raise Refused(error.code, error.message, error.field) from error
        except (TypeError, ValueError) as error:
            raise Refused("bad_field", f"a step's tool must be text, ok a bool, ms a number: {error}") from error
        raw = _input(input)
        self._input_bytes += len(raw)
        if input is not None and self._input_bytes <= INPUTS_BYTES_MAX:
            step = msgspec.structs.replace(step, input=msgspec.Raw(raw))
        self._steps_done += 1
        if self._steps_done <= STEPS_MAX:
            self._steps.append(step)

    def lesson(self, text: str) -> None:
        """What whoever does the same next should know.

        Raises:
            Refused: It is no text, longer than 4,096 characters, or the 65th.
        """
        if not isinstance(text, str) or len(text) > LESSON_CHARS_MAX:
            raise Refused("bad_field", f"a lesson must be text of at most {LESSON_CHARS_MAX} characters", "lessons")
        if len(self._lessons) >= LESSONS_MAX:
            raise Refused("bad_field", f"a run has at most {LESSONS_MAX} lessons", "lessons")
        self._lessons.append(_writable(text))

    def fail(self, reason: str = "") -> None:
        """It failed, though its block may come to its end."""
        self._success = False
        self._failure = _writable(str(reason))[:FAILURE_CHARS_MAX]

    def succeed(self) -> None:
        """It did not fail after all; an exception that ends the block outweighs this."""
        self._success, self._failure = True, ""

    def _begin(self) -> None:
        if self._begun is not None:
            raise RuntimeError("a run is recorded once; make another for the next try")
        self._begun = time.monotonic()

    def _over(self, error: BaseException | None) -> Outgoing:
        """The run as it is reported; a reason that `fail` was given stays beside an exception."""
        if error is not None:
            self.fail(self._failure or _named(error))
        body: dict[str, Any] = {**self._run, "success": self._success}
        if self._begun is not None:
            body.setdefault("duration_ms", round((time.monotonic() - self._begun) * 1000, 3))
        body |= {"failure": self._failure} if self._failure else {}
        return self._fitting(body)

    def _fitting(self, body: dict[str, Any]) -> Outgoing:
        """The most of it that one message holds: a run that says less is worth more than none."""
        bare = [msgspec.structs.replace(each, input=None) for each in self._steps]
        cuts = [
            ("nothing", {"steps": self._steps, "lessons": self._lessons}),
            ("the inputs of its steps", {"steps": bare, "lessons": self._lessons}),
            ("its steps and lessons", {}),
        ]
        left_out = ["steps beyond the first 1,000"] if self._steps_done > STEPS_MAX else []
        left_out += ["inputs of its steps beyond 512 KiB"] if self._input_bytes > INPUTS_BYTES_MAX else []
        for what, more in cuts:
            out = self._outgoing({**body, **{name: value for name, value in more.items() if value}})
            try:
                self._prepare(out)
            except Refused as error:
                if error.code != "too_large":
                    raise
                continue
            left_out += [what] if what != "nothing" else []
            break
        if left_out:
            log.warning("run %s is too large to be reported whole: left out %s", self.id, ", ".join(left_out))
        return out

    def _outgoing(self, body: Mapping[str, Any]) -> Outgoing:
        return Outgoing(event=body, session=self._session, agent=self._agent, kind="run")

    def _unstored(self, failure: ClientError, error: BaseException | None) -> None:
        """Raise why it is not stored, unless an exception goes on that matters more; that one then says it, too."""
        self.unreported = failure
        if error is None:
            raise failure
        error.add_note(f"and the run {self.id} was not stored: {failure}")


class AsyncRun(RunRecorder):
    """One run, made by `Client.run`; use it in `async with`."""

    def __init__(
        self,
        prepare: Prepare,
        publish: Publish,
        run: Mapping[str, Any],
        session: str,
        agent: str | None,
        timeout_s: float | None,
    ) -> None:
        super().__init__(prepare, run, session, agent)
        self._publish = publish
        self._timeout_s = timeout_s

    async def __aenter__(self) -> AsyncRun:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.receipt = await self._publish(self._over(error), patience_s(self._timeout_s, error))
        except ClientError as failure:
            self._unstored(failure, error)

    def __enter__(self) -> NoReturn:
        raise TypeError("a client's run is used in `async with`; without asyncio use `with jetmem.client.run(…)`")

    def __exit__(self, *_: object) -> None:
        """Never reached."""


def patience_s(timeout_s: float | None, error: BaseException | None) -> float | None:
    """How long to try to report what ended so."""
    if error is None or isinstance(error, Exception):
        return timeout_s
    return CANCELLED_S if timeout_s is None else min(timeout_s, CANCELLED_S)


def _named(error: BaseException) -> str:
    name = type(error).__name__
    try:
        said = str(error)
    except Exception:  # its own text must not keep the run from being reported
        said = ""
    return f"{name}: {said}" if said else name


def _input(value: Any) -> bytes:
    """As JSON, within the depth that messages have; else its `repr` as a text."""
    try:
        raw = _encode(value)
        events.check_depth(_ABOVE_INPUT + raw)
        return raw
    except (TypeError, ValueError, RecursionError, OverflowError):
        return _encode(_writable(_repr(value)))


def _writable(text: str) -> str:
    """Without lone surrogates, which are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()
