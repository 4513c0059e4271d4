"""What embed decides: windows, splits, giving up, replies."""

import msgspec
import pytest

from jetmem.embed import core
from jetmem.embed.recent import Recent
from jetmem.runtime import limits
from jetmem.runtime.errors import Poison, RequestFailed
from jetmem_schemas.internal import EmbedJob, EmbedText, EncodeRequest

REPLY = "memsvc.index.3.vectors"


def job(*texts: str, attempts: int = 0, tenant: str = "acme", reply: str = REPLY) -> EmbedJob:
    return EmbedJob(tenant, reply, [EmbedText(text.encode(), text) for text in texts], attempts)


def encoded(value: EmbedJob) -> bytes:
    return msgspec.msgpack.encode(value)


class TestRead:
    def test_a_job_comes_back(self) -> None:
        assert core.read(encoded(job("a", "b"))) == job("a", "b")

    @pytest.mark.parametrize("data", [b"", b"\xff\x00", b"{}", msgspec.msgpack.encode({"tenant": 1}), b"\x83" * 99])
    def test_what_is_no_job_is_poison(self, data: bytes) -> None:
        with pytest.raises(Poison):
            core.read(data)

    @pytest.mark.parametrize("reply", ["", "a", "a b.c", "memsvc.*.x", "memsvc.index.>", ".a", "a..b", "a.b\n"])
    def test_a_job_that_cannot_be_answered_is_poison(self, reply: str) -> None:
        with pytest.raises(Poison) as caught:
            core.read(encoded(job("a", reply=reply)))
        assert caught.value.field == "reply"


class TestWindow:
    def test_nothing_waits(self) -> None:
        assert core.window([], 512) == 0

    def test_jobs_from_the_front_as_long_as_they_fit(self) -> None:
        waiting = [(job(*"abcd"), 1)] * 5
        assert core.window(waiting, 8) == 2
        assert core.window(waiting, 11) == 2
        assert core.window(waiting, 100) == 5

    def test_a_job_larger_than_a_window_goes_alone(self) -> None:
        assert core.window([(job(*"abcdef"), 1), (job("x"), 1)], 4) == 1

    def test_no_later_job_passes_one_that_does_not_fit(self) -> None:
        assert core.window([(job("a"), 1), (job(*"bcdef"), 1), (job("g"), 1)], 3) == 1

    def test_long_texts_make_a_window_short(self) -> None:
        long = job(*["x" * 10_000] * 64)
        assert core.cost(long) == 64 * core.TEXT_COST_MAX
        assert core.window([(long, 1)] * 8, 512) == core.WINDOW_COST_MAX // core.cost(long)

    def test_a_suspect_ends_the_window_and_begins_none(self) -> None:
        waiting = [(job("a"), 1), (job("b"), 2), (job("c"), 3), (job("d"), 1)]
        assert core.window(waiting, 512) == 2
        assert core.window(waiting[2:], 512) == 0


class TestToEncode:
    def test_equal_texts_once_and_known_ones_not_at_all(self) -> None:
        jobs = [job("a", "b", "a"), job("b"), job("c", "k")]
        assert core.to_encode(jobs, {"k": b"v"}) == [["a", "b"], ["c"]]

    def test_nothing_left(self) -> None:
        assert core.to_encode([job("k")], {"k": b"v"}) == []

    def test_narrowing_goes_job_by_job_then_text_by_text(self) -> None:
        assert core.narrower([["a", "b"], ["c"]]) == [[["a", "b"]], [["c"]]]
        assert core.narrower([["a", "b"]]) == [[["a"]], [["b"]]]
        assert core.narrower([["a"]]) == []


class TestSuspects:
    def test_attempts_before_the_split_count(self) -> None:
        assert core.deliveries(job("a", attempts=3), 1) == 4
        assert core.deliveries(job("a", attempts=-9), 1) == 1
        assert not core.suspect(limits.JOB_ALONE_AT - 1)
        assert core.suspect(limits.JOB_ALONE_AT)

    def test_several_texts_are_split_with_their_count(self) -> None:
        plan = core.plan_suspect(job("a", "b"), 3, {})
        assert plan == core.Split([job("a", attempts=3), job("b", attempts=3)])

    def test_several_texts_are_never_given_up_together(self) -> None:
        assert isinstance(core.plan_suspect(job("a", "b"), 99, {}), core.Split)

    @pytest.mark.parametrize("times", [3, 4, 5])
    def test_one_text_is_encoded_alone(self, times: int) -> None:
        assert core.plan_suspect(job("a"), times, {}) == core.Alone("a")

    def test_one_text_is_given_up_after_five(self) -> None:
        plan = core.plan_suspect(job("a"), 6, {})
        assert plan == core.Answer({"a": core.Failed("gave up after 5 deliveries")})

    def test_what_was_encoded_before_is_no_suspect(self) -> None:
        assert core.plan_suspect(job("a", "b"), 9, {"a": b"1", "b": b"2"}) == core.Answer({"a": b"1", "b": b"2"})
        assert isinstance(core.plan_suspect(job("a", "b"), 9, {"a": b"1"}), core.Split)

    def test_a_copy_is_not_counted(self) -> None:
        before = job("a", attempts=3)
        times = core.deliveries(before, 1)
        assert core.deliveries(core.copy_of(before, times, encoded=False), 1) == times

    def test_an_encoded_job_is_forgiven(self) -> None:
        assert core.copy_of(job("a", attempts=3), 5, encoded=True).attempts == 0


class TestReplies:
    def test_in_the_order_of_the_job_with_reasons(self) -> None:
        (ready,) = core.replies(job("a", "b", "a"), "m@1", {"a": b"1234", "b": core.Failed("why")})
        assert (ready.tenant, ready.model) == ("acme", "m@1")
        assert [(v.key, v.data, v.reason) for v in ready.vectors] == [
            (b"a", b"1234", ""),
            (b"b", b"", "why"),
            (b"a", b"1234", ""),
        ]

    def test_a_job_without_texts_is_answered(self) -> None:
        assert [ready.vectors for ready in core.replies(job(), "m", {})] == [[]]

    def test_no_request_is_larger_than_the_bound_and_nothing_is_missing(self) -> None:
        texts = [f"text {n}" for n in range(300)]
        results = dict.fromkeys(texts, b"x" * 1536)
        parts = list(core.replies(job(*texts), "m", results, bytes_max=100_000))
        assert len(parts) > 1
        assert all(len(msgspec.msgpack.encode(part)) <= 100_000 + 100 for part in parts)
        assert [v.key.decode() for part in parts for v in part.vectors] == texts

    def test_a_full_job_is_one_request(self) -> None:
        texts = [f"text {n}" for n in range(limits.JOB_TEXTS)]
        assert len(list(core.replies(job(*texts), "m", dict.fromkeys(texts, b"x" * 1536)))) == 1


def test_an_asker_is_left_alone_longer_each_time() -> None:
    waits = [core.away_s(n) for n in range(1, 9)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (core.AWAY_FIRST_S, core.AWAY_LAST_S)
    assert core.away_s(10_000) == core.AWAY_LAST_S


def test_a_question_has_bounds() -> None:
    core.check_question(EncodeRequest(["short"] * core.QUESTION_TEXTS_MAX))
    for texts in (["a"] * (core.QUESTION_TEXTS_MAX + 1), ["x" * (core.QUESTION_BYTES_MAX + 1)]):
        with pytest.raises(RequestFailed) as caught:
            core.check_question(EncodeRequest(texts))
        assert caught.value.code == "too_large"


class TestRecent:
    def test_holds_the_most_recently_used(self) -> None:
        recent = Recent(2)
        recent.keep([("a", b"1"), ("b", b"2")])
        assert recent.known(["a"]) == {"a": b"1"}
        recent.keep([("c", b"3")])
        assert recent.known(["a", "b", "c"]) == {"a": b"1", "c": b"3"}
        assert len(recent) == 2

    def test_any_text_has_a_hash(self) -> None:
        recent = Recent(2)
        recent.keep([("\ud800", b"1")])
        assert recent.known(["\ud800", ""]) == {"\ud800": b"1"}
