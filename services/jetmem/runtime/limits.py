"""Every bound, with its reason. Relations between them are asserted at import."""

from __future__ import annotations

from typing import Final

from jetmem.runtime.errors import invariant
from jetmem_schemas.events import PAYLOAD_BYTES_MAX
from jetmem_schemas.internal import SCAN_BYTES_MAX

#: Broker `max_payload`: a dead letter is a full payload plus its headers and reason.
BROKER_PAYLOAD_BYTES_MAX: Final = 8 * 1024 * 1024
#: A reply larger than this stops with a cursor; clients with a default 1 MiB limit can still read it.
REPLY_BYTES_MAX: Final = 900_000
#: Messages a reader asks for at once; 1,000 gave 51 k/s (measured on 2 cores).
READ_BATCH: Final = 1_000
#: … and bytes, so that a thousand 1 MiB payloads do not come at once; one full payload with headers must fit.
READ_BATCH_BYTES: Final = 8 * 1024 * 1024
#: A pull waits this long for its first message; the server answers 408 then.
READ_EXPIRES_S: Final = 5.0
#: Silence beyond two heartbeats means that the consumer or the connection is gone.
READ_HEARTBEAT_S: Final = 1.0
#: The server forgets an ephemeral consumer that nobody pulls from (its default of 5 s is shorter than a GC pause).
READER_INACTIVE_S: Final = 60.0
#: One announcement on RECORD; small enough that a lost one is scanned in one slice.
FACTS_BYTES_MAX: Final = 512 * 1024
#: RECORD is a wire: memory, oldest dropped; who fell further behind scans.
RECORD_BYTES_MAX: Final = 128 * 1024 * 1024
RECORD_AGE_S: Final = 600.0
EMBED_BYTES_MAX: Final = 64 * 1024 * 1024
DEAD_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
#: Settings of tenants: some hundred bytes each, for far more tenants than one installation has …
TENANTS_BYTES_MAX: Final = 64 * 1024 * 1024
#: … and so many earlier values of each, for whoever wonders what was set before.
TENANTS_HISTORY: Final = 8
#: Who owns which partition is one value of some kilobytes; so many earlier ones show how the last move went.
OWNERS_BYTES_MAX: Final = 16 * 1024 * 1024
OWNERS_HISTORY: Final = 64
#: JetStream keeps a stream in files of at most so many bytes (server source, `FileStoreMaxBlkSize`).
STREAM_FILE_BYTES_MAX: Final = 8 * 1024 * 1024
#: Heads are announced this often: the longest time a reader can miss that it missed the last message.
HEADS_EVERY_S: Final = 1.0
#: Ids in one `forgot` entry, so that no write and no message grows with what is erased.
FORGET_IDS_MAX: Final = 500
#: Dead letters are counted this often, for health.
DEAD_COUNT_EVERY_S: Final = 5.0
#: Questions in work at once; more wait their turn. One that waits for `after` is not in work.
REQUESTS_AT_ONCE: Final = 64
#: Requests of one endpoint held at once, those that wait included; more stay in the subscription.
REQUESTS_HELD_MAX: Final = 2_048
#: Of one tenant, so that nobody's waiting keeps others from being answered; more are refused as `busy`.
REQUESTS_WAITING_MAX: Final = 128
#: Stage to stage requests: longer than any answer takes, shorter than a caller's patience.
SERVICE_TIMEOUT_S: Final = 2.0
#: A stage that has work and makes none of it for this long is unhealthy.
PROGRESS_DEADLINE_S: Final = 30.0
#: Retrying grows from here to there.
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 5.0
#: Draining on SIGTERM; Kubernetes gives 30 s.
DRAIN_S: Final = 20.0
#: Texts in one embedding job, and of one asker in EMBED at once: a few seconds of work on two cores.
JOB_TEXTS: Final = 64
JOB_BYTES_MAX: Final = 512 * 1024
JOBS_TEXTS_OUT: Final = 2_048
#: Jobs of one asker in EMBED at once, when many tenants ask for their first texts: what the stream surely holds.
JOBS_OUT_MAX: Final = 128
#: embed has this long to answer a job before the broker gives it to another, and the asker asks again.
JOB_ACK_WAIT_S: Final = 30.0
JOB_DEADLINE_S: Final = 60.0
#: A text is encoded alone from this delivery on, and given up after that many.
JOB_ALONE_AT: Final = 3
JOB_GIVE_UP_AFTER: Final = 5
#: Pieces of one text that get vectors; a 1 MiB text beyond that is found by its words.
PASSAGES_MAX: Final = 64
#: Stored vectors in one reply of index: 2 kB each fit a reply.
VECTORS_AT_ONCE: Final = 400

invariant(SCAN_BYTES_MAX < REPLY_BYTES_MAX, "a scan's slice fits a reply")
invariant(8 * REQUESTS_WAITING_MAX < REQUESTS_HELD_MAX, "a few tenants that wait leave room for others")
invariant(PAYLOAD_BYTES_MAX * 2 < BROKER_PAYLOAD_BYTES_MAX, "a dead letter fits the broker")
invariant(READ_BATCH_BYTES >= PAYLOAD_BYTES_MAX * 2, "one full payload with headers fits a read")
invariant(JOB_DEADLINE_S > JOB_ACK_WAIT_S, "the broker redelivers before the asker asks again")
invariant(JOB_TEXTS <= JOBS_TEXTS_OUT, "one job fits what may be out")
invariant(JOBS_TEXTS_OUT < JOBS_OUT_MAX * JOB_TEXTS, "who imports leaves room for a first job of others")
invariant(JOBS_OUT_MAX * JOB_BYTES_MAX <= EMBED_BYTES_MAX, "what one asker has out fits the stream")
invariant(JOB_ALONE_AT < JOB_GIVE_UP_AFTER, "a text is tried alone before it is given up")
