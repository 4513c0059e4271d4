"""Embeddings a second through EMBED against the bare encoder: same texts, order, window and precision, in turns.

`PYTHONPATH=services:schemas:tests python -m harness.measure_embed EVENTS.jsonl [TEXTS] [ROUNDS] [WINDOW] [--profile]`

embed is a process of its own, the asker is this one and keeps `JOBS_TEXTS_OUT` texts out. Each round's texts differ
from the others' by one number, so that no cache answers. On a machine that is shared the two rates are noise; what
stays true is the part of the time in which the encoder was encoding, and processor seconds a text.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import nats

from harness.broker import Broker
from harness.waiting import until_async
from jetmem.adapters.encoder import open_encoder
from jetmem.adapters.nats_streams import ensure
from jetmem.client.flushing import flushed
from jetmem.runtime import limits
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects
from jetmem_schemas.internal import EmbedJob, EmbedText, StageStatus, Stored, VectorsReady, encode

CACHE = Path(os.environ.get("XDG_CACHE_HOME", tempfile.gettempdir())) / "jetmem-test-models"
PRECISION = "onnx-int8"
REPLY = subjects.service("index", 0, "vectors")
RUN = """
import asyncio, os, uvloop
from jetmem.embed.app import build
from jetmem.embed.settings import EmbedSettings
from jetmem.runtime import logs
from jetmem.runtime.settings import Common
logs.configure("info", "console", "embed")
shell = build(
    Common(server=os.environ["URL"]),
    EmbedSettings(precision=os.environ["PRECISION"], cache=os.environ["CACHE"], window_texts=int(os.environ["WINDOW"])),
)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(shell.run())
"""
PROFILED = """
import cProfile, pstats
profile = cProfile.Profile()
profile.enable()
{}
profile.disable()
pstats.Stats(profile).sort_stats('tottime').print_stats(25)
"""
TICKS_S = os.sysconf("SC_CLK_TCK")


def read(path, count):
    with Path(path).open() as lines:
        texts = [json.loads(line)["event"].get("text", "") for line in lines]
    return [text for text in texts if text][:count]


def processor_s(pid):
    """User and system seconds of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def bare(encoder, texts, window):
    started = time.perf_counter()
    for at in range(0, len(texts), window):
        encoder.encode(texts[at : at + window])
    return len(texts) / (time.perf_counter() - started)


async def served(nc, texts):
    """Rate from the first job to the last vector."""
    got = set()
    more = asyncio.Event()

    async def on_vectors(msg):
        ready = msgspec.msgpack.decode(msg.data, type=VectorsReady)
        got.update(vector.key for vector in ready.vectors if vector.data)
        await nc.publish(msg.reply, encode(Stored(len(ready.vectors))))
        more.set()

    sub = await nc.subscribe(REPLY, cb=on_vectors)
    js = nc.jetstream()
    started = time.perf_counter()
    sent = 0
    while len(got) < len(texts):
        while sent < len(texts) and sent - len(got) < limits.JOBS_TEXTS_OUT:
            chunk = texts[sent : sent + limits.JOB_TEXTS]
            job = EmbedJob("bench", REPLY, [EmbedText(b"%d" % (sent + n), text) for n, text in enumerate(chunk)])
            await js.publish(subjects.embed_job("index"), encode(job))
            sent += len(chunk)
        more.clear()
        if len(got) < len(texts):
            await asyncio.wait_for(more.wait(), 60)
    rate = len(texts) / (time.perf_counter() - started)
    await sub.unsubscribe()
    await flushed(nc)  # the last answer must leave before this process does something else
    return rate


async def status(nc):
    try:
        reply = await nc.request(subjects.service("embed", "any", "status"), encode({}), timeout=2)
    except (nats.errors.Error, TimeoutError):
        return None
    return msgspec.msgpack.decode(reply.data, type=StageStatus)


async def busy_s(nc):
    return float((await status(nc)).counts["busy_s"])


async def measure(nc, encoder, pid, texts, window, rounds):
    ratios, costs, busy = [], [], []
    for number in range(rounds):
        these = [f"{text} {number}" for text in texts]
        rate, used = {}, {}
        for turn in ("bare", "EMBED") if number % 2 else ("EMBED", "bare"):
            who = pid if turn == "EMBED" else os.getpid()
            before, encoding = processor_s(who), await busy_s(nc)
            rate[turn] = await served(nc, these) if turn == "EMBED" else bare(encoder, these, window)
            used[turn] = (processor_s(who) - before) * 1000 / len(these)
            if turn == "EMBED":
                busy.append((await busy_s(nc) - encoding) * rate[turn] / len(these))
        ratios.append(rate["EMBED"] / rate["bare"])
        costs.append(used["bare"] / used["EMBED"])
        told = ", ".join(f"{turn} {rate[turn]:.1f}/s {used[turn]:.2f} ms of processor a text" for turn in rate)
        print(f"{told}, {ratios[-1]:.1%} by time, {costs[-1]:.1%} by processor, {busy[-1]:.1%} busy", flush=True)
    medians = [statistics.median(each) for each in (ratios, costs, busy)]
    print("median {:.1%} by time, {:.1%} by processor, encoder busy {:.1%}".format(*medians))
    print(f"{len(texts)} texts, window {window}, {encoder.precision}, {os.cpu_count()} cores")


async def main(path, count, rounds, window, profile):
    texts = read(path, count)
    encoder = open_encoder(cache_dir=CACHE, precision=PRECISION)
    bare(encoder, texts[:200], window)
    with Broker() as broker:
        nc = await nats.connect(broker.url)
        await ensure(nc, subjects.EMBED, Common())
        env = {**os.environ, "URL": broker.url, "CACHE": str(CACHE), "PRECISION": PRECISION, "WINDOW": str(window)}
        program = PROFILED.format(RUN) if profile else RUN
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=env)
        try:
            await until_async(lambda: status(nc), "embed answers", 120)
            await served(nc, [f"{text} warm" for text in texts[:200]])
            await measure(nc, encoder, child.pid, texts, window, rounds)
            print((await status(nc)).counts)
        finally:
            child.terminate()
            await child.wait()
            await nc.close()
    encoder.close()


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[2:] if each.isdigit()]
    count, rounds, window = (numbers + [2_000, 4, 512][len(numbers) :])[:3]
    asyncio.run(main(sys.argv[1], count, rounds, window, "--profile" in sys.argv))
