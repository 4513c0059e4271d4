"""Quantiles in bounded memory: counts in buckets whose borders grow by a fixed ratio.

DDSketch (Masson, Rim and Lee, 2019) without collapsing: as the range is fixed, so is the number of buckets, and the
sketch depends on the values only, not on their order; merging adds, forgetting subtracts. Written here because the
packages that hold it keep their state in objects of their own and collapse buckets as values come.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

#: Half a bucket, as a share of its middle.
ERROR: Final = 0.02
#: The upper border of a bucket over the lower: a quantile is told less than so many times too large or too small.
RATIO: Final = (1 + ERROR) / (1 - ERROR)
LEAST: Final = 1e-6
MOST: Final = 1e12
_GAMMA: Final = math.log(RATIO)
#: Significant digits: of so many some number is in every bucket.
_DIGITS: Final = 3
_LOWEST: Final = math.ceil(math.log(LEAST) / _GAMMA)
_HIGHEST: Final = math.ceil(math.log(MOST) / _GAMMA)
#: What is at most `LEAST`, 0 and below among it.
_ZERO: Final = _LOWEST - 1
BUCKETS_MAX: Final = _HIGHEST - _ZERO + 1


class Sketch(msgspec.Struct, frozen=True, gc=False):
    """Counts by bucket; at most `BUCKETS_MAX`, in practice some dozens."""

    counts: dict[int, int] = {}

    @property
    def size(self) -> int:
        """How many values."""
        return sum(self.counts.values())


def add(to: Sketch, value: float | None) -> Sketch:
    """Count a value; None and what is no number are left out."""
    if value is None or not math.isfinite(value):
        return to
    bucket = _ZERO if value <= LEAST else min(_HIGHEST, math.ceil(math.log(value) / _GAMMA))
    return Sketch({**to.counts, bucket: to.counts.get(bucket, 0) + 1})


def merged(left: Sketch, right: Sketch) -> Sketch:
    """Both together."""
    counts = dict(left.counts)
    for bucket, count in right.counts.items():
        counts[bucket] = counts.get(bucket, 0) + count
    return Sketch(counts)


def quantile(of: Sketch, share: float) -> float | None:
    """The value that `share` (0..1) of all do not exceed, as the roundest number in its bucket; None of none.

    Values of one digit, as 1, 0.5 or 200, are told as they are, others within `RATIO`. The middle of the bucket is
    within `ERROR`, but tells a reward that was always 1 as 0.98.
    """
    rank = math.ceil(share * of.size) or 1
    for bucket in sorted(of.counts):
        rank -= of.counts[bucket]
        if rank <= 0:
            return 0.0 if bucket == _ZERO else _roundest(bucket)
    return None


def _roundest(bucket: int) -> float:
    """Of the numbers of least digits the one that is next to the middle."""
    high = math.exp(bucket * _GAMMA)
    middle = 2 * high / (RATIO + 1)
    rounded = (float(f"{middle:.{digits}e}") for digits in range(_DIGITS))
    return next((each for each in rounded if high / RATIO < each <= high), middle)
