"""Which precision serves: rules over measurements, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.runtime.errors import Broken

Precision = Literal["onnx-int8", "onnx-fp32", "torch-bf16", "torch-fp32"]
#: Fastest first, as measured where VNNI exists; each is measured again where it is to run.
PRECISIONS: Final[tuple[Precision, ...]] = ("onnx-int8", "torch-bf16", "onnx-fp32", "torch-fp32")
#: What `auto` measures: torch only where no ONNX precision is exact enough. Measuring torch takes most of a first
#: start, and it costs some 400 MB; who wants it (AMX, bf16 units) asks for it by name.
AUTO: Final[tuple[tuple[Precision, ...], ...]] = (("onnx-int8", "onnx-fp32"), ("torch-bf16", "torch-fp32"))
#: … and on a GPU, where ONNX does not run here.
ON_GPU: Final[tuple[tuple[Precision, ...], ...]] = (("torch-bf16", "torch-fp32"),)
#: Lets per-channel int8 (0.991 on LoCoMo turns) pass and per-tensor int8 (0.951, worst 0.854) not.
COSINE_MEAN_MIN: Final = 0.985
#: No single text may be further from its own fp32 vector than near-duplicates are from each other.
COSINE_MIN_MIN: Final = 0.95
#: torch costs some 400 MB and 5 s of start more than onnxruntime: it must be worth that.
TORCH_GAIN_MIN: Final = 1.2


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One precision, measured on this processor.

    Attributes:
        precision: One of `PRECISIONS`.
        texts_per_s: Through `encode`, texts of some 40 tokens.
        cosine_mean: Against torch fp32 over the reference texts.
        cosine_min: The worst text.
        accepted: Exact enough to serve.
        why: The reason, for people.
    """

    precision: str
    texts_per_s: float
    cosine_mean: float
    cosine_min: float
    accepted: bool
    why: str


class EncoderReport(msgspec.Struct, frozen=True, kw_only=True):
    """How the encoder came to its precision, for `status`."""

    model: str
    precision: str
    processor: str
    threads: int
    candidates: tuple[Candidate, ...]
    why: str


def cosines(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and least cosine of rows to their reference; NaN counts as -1."""
    rows = np.nan_to_num(np.sum(vectors * reference, axis=1), nan=-1.0)
    return float(rows.mean()), float(rows.min())


def judge(precision: str, texts_per_s: float, mean: float, least: float) -> Candidate:
    """Decide whether a measured precision is exact enough."""
    accepted = mean >= COSINE_MEAN_MIN and least >= COSINE_MIN_MIN
    bounds = (
        f"cosine to fp32 {mean:.4f} mean (at least {COSINE_MEAN_MIN}), {least:.4f} worst (at least {COSINE_MIN_MIN})"
    )
    return Candidate(
        precision=precision,
        texts_per_s=round(texts_per_s, 1),
        cosine_mean=round(mean, 5),
        cosine_min=round(least, 5),
        accepted=accepted,
        why=("exact enough: " if accepted else "too far from fp32: ") + bounds,
    )


def failed(precision: str, why: str) -> Candidate:
    """A precision that could not be measured here."""
    return Candidate(precision=precision, texts_per_s=0.0, cosine_mean=-1.0, cosine_min=-1.0, accepted=False, why=why)


def candidates_of(asked: str, device: str = "cpu") -> tuple[tuple[Precision, ...], ...]:
    """Groups of precisions to measure for a setting: the next group only if none of one is accepted.

    Raises:
        Broken: The setting is unknown, or nothing runs so on this device.
    """
    if asked == "auto":
        return AUTO if device == "cpu" else ON_GPU
    if device != "cpu" and asked.startswith("onnx"):
        raise Broken(f"precision {asked} runs on processors only; device {device} takes auto, torch-bf16 or torch-fp32")
    for precision in PRECISIONS:
        if asked == precision:
            return ((precision,),)
    raise Broken(f"precision is {asked!r}, not auto or one of {', '.join(PRECISIONS)}")


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Choose the fastest accepted candidate; torch only where it is worth its weight.

    Raises:
        Broken: None is accepted; says why for each.
    """
    accepted = [each for each in candidates if each.accepted]
    if not accepted:
        reasons = "; ".join(f"{each.precision}: {each.why}" for each in candidates)
        raise Broken(f"no precision is usable: {reasons}")
    return max(accepted, key=_worth)


def _worth(candidate: Candidate) -> float:
    return candidate.texts_per_s / (TORCH_GAIN_MIN if candidate.precision.startswith("torch") else 1.0)
