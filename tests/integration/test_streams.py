"""A stream made by somebody else is taken if it loses nothing, and refused with a sentence if it would."""

import asyncio

import nats
import pytest

from harness.broker import Broker
from jetmem.adapters.nats_connect import api
from jetmem.adapters.nats_streams import configuration, ensure
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def broker():
    with Broker() as running:
        yield running


def checked(broker, stream, without=(), common=None, **changes):
    """Make a stream that differs from ours, then have it checked."""

    async def main():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        config = {k: v for k, v in configuration(stream, Common()).items() if k not in without} | changes
        await api(nc, f"$JS.API.STREAM.CREATE.{stream}", config)
        try:
            await ensure(nc, stream, common or Common())
        finally:
            await api(nc, f"$JS.API.STREAM.DELETE.{stream}")
            await nc.close()

    asyncio.run(main())


@pytest.mark.parametrize("stream", [*subjects.STREAMS, subjects.TENANTS, subjects.OWNERS])
def test_our_own_are_taken(broker, stream):
    checked(broker, stream)


@pytest.mark.parametrize(
    "same",
    [
        {"max_age": 0, "max_msgs": -1, "max_msgs_per_subject": 0, "num_replicas": 0},
        {"deny_delete": False, "deny_purge": False, "description": "made by hand", "compression": "s2"},
        {"max_bytes": 10_000_000},
    ],
)
def test_what_is_missing_or_zero_is_the_servers_default(broker, same):
    checked(broker, subjects.MEMORY, **same)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"duplicate_window": 120 * SECOND}, "duplicate_window 120000000000, but 100000000 is needed"),
        ({"max_age": 3600 * SECOND}, "max_age 3600000000000, but the server's default is needed"),
        ({"max_msgs": 1000}, "max_msgs 1000, but the server's default is needed"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject 5, but"),
        ({"max_msg_size": 1000}, "max_msg_size 1000, but 1048576 is needed"),
        ({"deny_delete": True}, "deny_delete True, but"),
        ({"deny_purge": True}, "deny_purge True, but"),
        ({"no_ack": True, "allow_atomic": False}, "has (allow_atomic|no_ack) "),
        ({"allow_msg_ttl": True}, "allow_msg_ttl True, but"),
        ({"discard": "old"}, "discard 'old', but 'new' is needed"),
    ],
)
def test_what_loses_or_swallows_messages_is_refused(broker, changes, found):
    with pytest.raises(Broken, match=found):
        checked(broker, subjects.MEMORY, **changes)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"storage": "memory"}, "storage 'memory', but 'file' is needed"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject 1, but 8 is needed"),
        ({"max_age": 3600 * SECOND}, "max_age 3600000000000, but the server's default is needed"),
        ({"deny_delete": False}, "deny_delete .*, but True is needed"),
    ],
)
def test_settings_of_tenants_that_would_be_lost_are_refused(broker, changes, found):
    with pytest.raises(Broken, match=f"stream KV_TENANTS has {found}"):
        checked(broker, subjects.TENANTS, **changes)


def test_a_memory_that_whoever_publishes_can_empty_is_refused(broker):
    """`Nats-Rollup` in a message's headers removes what was said before."""
    with pytest.raises(Broken, match="allow_rollup_hdrs True, but the server's default is needed"):
        checked(broker, subjects.MEMORY, allow_rollup_hdrs=True)


def test_a_window_that_was_not_given_is_the_servers_two_minutes(broker):
    with pytest.raises(Broken, match="duplicate_window 120000000000"):
        checked(broker, subjects.MEMORY, without=("duplicate_window",))


def test_replicas_that_were_asked_for_later_are_not_taken_for_granted(broker):
    with pytest.raises(Broken, match="num_replicas 1, but 3 is needed"):
        checked(broker, subjects.MEMORY, common=Common(replicas=3))


def test_an_unexpected_transform_is_refused_too(broker):
    with pytest.raises(Broken, match="subject_transform"):
        checked(broker, subjects.DEAD, subject_transform={"src": "memdead.>", "dest": "elsewhere.>"})


def test_who_is_told_to_verify_waits_for_the_stream_and_creates_nothing(broker):
    """Whoever manages the streams (NACK) makes them; what they made is checked as ever."""
    verifying = Common(streams="verify")

    async def main():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        try:
            for stream in (subjects.MEMORY, subjects.RECORD, subjects.EMBED, subjects.DEAD):
                with pytest.raises(Retryable, match=f"stream {stream} is not there yet"):
                    await ensure(nc, stream, verifying)
            assert (await api(nc, "$JS.API.STREAM.NAMES"))["streams"] is None
            await api(nc, "$JS.API.STREAM.CREATE.EMBED", configuration(subjects.EMBED, Common()))
            assert (await ensure(nc, subjects.EMBED, verifying))["config"]["name"] == subjects.EMBED
        finally:
            await api(nc, "$JS.API.STREAM.DELETE.EMBED")
            await nc.close()

    asyncio.run(main())
