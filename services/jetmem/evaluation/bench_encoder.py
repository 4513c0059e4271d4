"""Embeddings a second: the bare model in a process alone, and the same work through the pipeline.

python -m jetmem.evaluation.bench_encoder PLAN.json     (the process alone; prints a rate)
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
from nats.aio.client import Client as Nats

from jetmem.client import Client
from jetmem.embed.settings import EmbedSettings
from jetmem.evaluation import conditions
from jetmem.evaluation.show import Told
from jetmem.runtime.errors import Broken

#: The default of sentence-transformers, which is best for it on two cores (measured).
REFERENCE_BATCH: Final = 32
_SAMPLE_S: Final = 0.5
#: The pipeline runs this long between two looks at the bare model; embed counts in windows of about a second.
_STRETCH_S: Final = 20.0
#: The first windows share the cores with the end of the load, the last ones are not full.
_FROM, _TO = 0.1, 0.9
_CHILD_EXTRA_S: Final = 240.0


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """What the process alone does: `windows` of texts, in turn, until `seconds` are spent."""

    how: Literal["jetmem", "sentence-transformers"]
    settings: EmbedSettings
    cache: str
    windows: list[list[str]]
    seconds: float


class Rate(msgspec.Struct, frozen=True):
    """Texts a second, and in which precision."""

    rate: float
    texts: int
    precision: str


class Backlog(msgspec.Struct, frozen=True):
    """A backlog worked off: texts encoded a second in steady state, and events that got their vector.

    `ratios` compares each stretch of the pipeline with the bare model just before and just after it.
    """

    rate: float
    events: float
    seconds: float
    ratios: list[float] = []


def windows(texts: Sequence[str], size: int, count: int) -> list[list[str]]:
    """Windows of consecutive texts from all over, as embed would take them."""
    every = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
    return [every[number * len(every) // count] for number in range(count)] if count < len(every) else every


async def alone(plan: Alone, folder: Path) -> Rate:
    """Run a plan in a process of its own."""
    path = folder / f"{plan.how}.json"
    path.write_bytes(msgspec.json.encode(plan))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "jetmem.evaluation.bench_encoder", str(path), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(plan.seconds + _CHILD_EXTRA_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise Broken(f"the process that encodes alone ended with {process.returncode}")
    return msgspec.json.decode(out.splitlines()[-1], type=Rate)


async def backlog(memory: Client, nc: Nats, told: Told, bare: Callable[[], Awaitable[Rate]] | None) -> Backlog:
    """Watch a backlog until nothing of this tenant lacks its vector.

    Args:
        memory: Of the tenant.
        nc: For embed's own counts.
        told: Hears of progress.
        bare: Measures the bare model while embed is held: before, now and then, after; None: never. Neighbours on a
            shared machine move both rates by tens of percent within a minute, so only neighbouring stretches compare.

    Guarantees:
        The rate is that of the middle, between a tenth and nine tenths of what was pending at first.
    """
    bares = [(await bare()).rate] if bare else []
    began = time.perf_counter()
    samples: list[tuple[float, int, int]] = []
    stretches: list[float] = []
    opened = 0
    while True:
        status = await memory.status()
        if "vector" in status.degraded:  # a busy index that did not answer says nothing of what is pending
            await asyncio.sleep(_SAMPLE_S)
            continue
        pending = status.pending_vectors
        texts = int((await conditions.stage_counts(nc, "embed"))["texts_total"])
        samples.append((time.perf_counter() - began, pending, texts))
        long = samples[-1][0] - samples[opened][0] > _STRETCH_S
        if bare and (not pending or long):
            held = time.perf_counter()
            stretches.append(_rate_of(samples[opened:]))
            bares.append((await bare()).rate)
            began += time.perf_counter() - held
            opened = len(samples)
        if not pending:
            break
        told.still(f"{pending} texts without a vector")
        await asyncio.sleep(_SAMPLE_S)
    found = steady(samples)
    ratios = [s / ((b + a) / 2) for s, b, a in zip(stretches, bares, bares[1:], strict=False)]
    return msgspec.structs.replace(found, ratios=[round(r, 3) for r in ratios if r])


def _rate_of(samples: Sequence[tuple[float, int, int]]) -> float:
    """Texts a second of one stretch; 0 if it is too short to tell, as at the very end."""
    if len(samples) < 2 or samples[-1][0] - samples[0][0] < _STRETCH_S / 2:
        return 0.0
    return (samples[-1][2] - samples[0][2]) / (samples[-1][0] - samples[0][0])


def steady(samples: Sequence[tuple[float, int, int]]) -> Backlog:
    """Rates between the first and the last sample of the middle; samples are (seconds, pending, texts so far)."""
    most = max(pending for _, pending, _ in samples)
    middle = [each for each in samples if most * (1 - _TO) <= each[1] <= most * (1 - _FROM)]
    if len(middle) < 2:
        middle = [samples[0], samples[-1]]
    (t0, p0, n0), (t1, p1, n1) = middle[0], middle[-1]
    spent = max(t1 - t0, 1e-9)
    return Backlog((n1 - n0) / spent, (p0 - p1) / spent, samples[-1][0])


def encode_alone(plan: Alone) -> Rate:
    """What the process alone does."""
    if plan.how == "jetmem":
        from jetmem.adapters.encoder import open_encoder

        own = plan.settings
        encoder = open_encoder(
            cache_dir=Path(plan.cache),
            model=own.model,
            precision=own.precision,
            batch_texts=own.batch_texts,
            threads=own.threads,
        )
        encoder.encode(plan.windows[0])
        done, spent = _until(plan, lambda texts: encoder.encode(texts))
        encoder.close()
        return Rate(done / spent, done, encoder.precision)
    from jetmem.adapters.encoder_torch import load_sentence_transformer
    from jetmem.adapters.model_files import find_model

    model = load_sentence_transformer(find_model(plan.settings.model).folder, "torch-fp32")
    model.encode(plan.windows[0][:REFERENCE_BATCH])
    done, spent = _until(plan, lambda texts: model.encode(texts, batch_size=REFERENCE_BATCH, show_progress_bar=False))
    return Rate(done / spent, done, "torch-fp32")


def _until(plan: Alone, encode: Callable[[list[str]], object]) -> tuple[int, float]:
    done, began = 0, time.perf_counter()
    while True:
        for window in plan.windows:
            encode(window)
            done += len(window)
            if time.perf_counter() - began > plan.seconds:
                return done, time.perf_counter() - began


if __name__ == "__main__":
    told_ = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Alone)
    sys.stdout.write(msgspec.json.encode(encode_alone(told_)).decode() + "\n")
