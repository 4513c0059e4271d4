"""Measures precisions on this processor, in a process of its own, and remembers what came out."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from jetmem.adapters.encoder_batches import BatchedEncoder, Forward
from jetmem.adapters.encoder_choice import Candidate, EncoderReport, Precision, cosines, failed, judge
from jetmem.adapters.encoder_export import FP32, INT8, Export, ensure_export, installed, run_child
from jetmem.adapters.encoder_onnx import open_onnx
from jetmem.adapters.encoder_samples import REFERENCE_TEXTS, timing_texts
from jetmem.adapters.model_files import ModelFiles, locked, write_atomically
from jetmem.adapters.tokens import Tokens
from jetmem.runtime.errors import Broken

#: Raise it when measuring or judging changes: precisions are then measured again.
MEASURE_VERSION: Final = 1
#: One answer's worth; repeated, the best counts, as neighbours on the machine only ever slow it down.
TIMING_TEXTS: Final = 128
TIMING_ROUNDS_MAX: Final = 5
TIMING_S_MAX: Final = 3.0
PACKAGES: Final = ("onnxruntime", "tokenizers", "torch", "sentence-transformers", "numpy")
ONNX_FILES: Final[dict[str, str]] = {"onnx-int8": INT8, "onnx-fp32": FP32}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure and how it will be used."""

    files: ModelFiles
    export: Export
    threads: int
    batch_texts: int
    device: str = "cpu"


def processor() -> str:
    """Name of this processor, and a short hash of what it can do."""
    name, flags = platform.processor() or platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = " ".join(sorted(value.split()))
                break
    except OSError:
        pass
    return f"{name} ({hashlib.sha256(flags.encode()).hexdigest()[:8]})"


def runs_on(device: str) -> str:
    """What encodes: this processor, or the GPUs that the driver lists."""
    if device == "cpu":
        return processor()
    listed = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [line.partition(":")[2].strip() for path in listed for line in path.read_text().splitlines()[:1]]
    return f"{device}: {', '.join(models) or 'unknown'}"


def files_needed(precision: str) -> list[str]:
    """Export files that a precision loads."""
    return [ONNX_FILES[precision]] if precision in ONNX_FILES else []


def open_forward(plan: Plan, precision: str, threads: int) -> Forward:
    """Open the model in one precision, for so many threads.

    Raises:
        Broken: It cannot be had here.
    """
    if precision in ONNX_FILES:
        if plan.export.manifest.onnx_failure:
            raise Broken(plan.export.manifest.onnx_failure)
        return open_onnx(plan.export.folder / ONNX_FILES[precision], threads)
    from jetmem.adapters.encoder_torch import open_torch

    return open_torch(plan.files.folder, precision, threads, plan.device)


def build(plan: Plan, report: EncoderReport) -> BatchedEncoder:
    """Build the encoder that a report speaks of."""
    return BatchedEncoder(
        report=report,
        dimensions=plan.export.manifest.dimensions,
        window_tokens=plan.files.window_tokens,
        tokens=Tokens(plan.files.folder, plan.files.window_tokens),
        open_forward=lambda threads: open_forward(plan, report.precision, threads),
        batch_texts=plan.batch_texts,
    )


def measured(plan: Plan, precisions: Sequence[Precision], cache_dir: Path) -> tuple[Candidate, ...]:
    """Candidates in the order asked, from the cache or measured now.

    Raises:
        Broken: Measuring itself failed.

    Guarantees:
        Remembered per processor, library versions, threads and batch size; a second start measures nothing.
    """
    folder = cache_dir / f"measured-{_key(plan)}"
    known = _read(folder, precisions)
    if len(known) < len(precisions):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            known = _read(folder, precisions)
            absent = [each for each in precisions if each not in known]
            if absent:
                # A damaged file must not be remembered as an unusable precision.
                ensure_export(plan.files, cache_dir, list(ONNX_FILES.values()))
                write_atomically(folder / "plan.json", msgspec.json.encode(plan, enc_hook=str))
                run_child("jetmem.adapters.encoder_measure", [str(folder), *absent], local=plan.files.local)
                known = _read(folder, precisions)
    lost = [each for each in precisions if each not in known]
    if lost:
        raise Broken(f"measuring {', '.join(lost)} left no result in {folder}")
    return tuple(known[each] for each in precisions)


def _key(plan: Plan) -> str:
    versions = ",".join(f"{package}={installed(package)}" for package in PACKAGES)
    sizes = f"{plan.threads},{plan.batch_texts}"
    parts = (str(MEASURE_VERSION), plan.export.folder.name, runs_on(plan.device), versions, sizes)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _read(folder: Path, precisions: Sequence[Precision]) -> dict[Precision, Candidate]:
    found: dict[Precision, Candidate] = {}
    for precision in precisions:
        try:
            content = (folder / f"{precision}.json").read_bytes()
            candidate = msgspec.json.decode(content, type=Candidate)
        except (OSError, msgspec.MsgspecError):
            continue
        # Judged again: a remembered verdict must not outlive a change of the bounds.
        if candidate.texts_per_s > 0:
            candidate = judge(precision, candidate.texts_per_s, candidate.cosine_mean, candidate.cosine_min)
        found[precision] = candidate
    return found


def measure(plan: Plan, precision: str) -> Candidate:
    """Measure one precision here and now; one that cannot run is a candidate that is not accepted."""
    report = EncoderReport(
        model=plan.files.identity,
        precision=precision,
        processor="",
        threads=plan.threads,
        candidates=(),
        why="",
    )
    try:
        encoder = build(plan, report)
    except Broken as error:
        return failed(precision, str(error))
    try:
        mean, least = cosines(encoder.encode(REFERENCE_TEXTS), plan.export.reference())
        alone = [encoder.encode([text], interactive=True)[0] for text in REFERENCE_TEXTS]
        mean_alone, least_alone = cosines(np.stack(alone), plan.export.reference())
        return judge(precision, _rate(encoder), min(mean, mean_alone), min(least, least_alone))
    except Exception as error:  # e.g. no kernel for this processor
        return failed(precision, f"{type(error).__name__}: {error}")
    finally:
        encoder.close()


def _rate(encoder: BatchedEncoder) -> float:
    texts = timing_texts(TIMING_TEXTS)
    began, best = time.perf_counter(), 0.0
    for _ in range(TIMING_ROUNDS_MAX):
        start = time.perf_counter()
        encoder.encode(texts)
        best = max(best, len(texts) / (time.perf_counter() - start))
        if time.perf_counter() - began > TIMING_S_MAX:
            break
    return best


def main(arguments: Sequence[str]) -> None:
    """Child process: measure `arguments[1:]` as `plan.json` in folder `arguments[0]` says."""
    folder = Path(arguments[0])
    plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan, dec_hook=_path)
    for precision in arguments[1:]:
        candidate = measure(plan, precision)
        write_atomically(folder / f"{precision}.json", msgspec.json.encode(candidate))


def _path(kind: type, value: object) -> object:
    return kind(value)


def cores() -> int:
    """Cores that this process may use; a container's CPU quota does not show here."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main(sys.argv[1:])
