"""Groups of vectors that lie densely together, by HDBSCAN (Campello and others, 2013) of scikit-learn.

It runs aside (`adapters.aside`): it takes seconds, and scikit-learn takes 0.1 GB.

Chosen on LoCoMo dev (128 segments of five conversations, all-MiniLM-L6-v2), see decision 0020.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.aside import aside

#: Principal components that are looked at: distances in all 384 dimensions are nearly equal.
DIMENSIONS: Final = 10
#: Segments that make a topic. Fewer are a coincidence: with 3 topics come and go (stability 0.71 instead of 0.83).
SIZE_LEAST: Final = 5
#: … and the share of all, so that there are at most as many topics as anybody reads a list of.
SIZE_SHARE: Final = 1 / 400
#: Neighbours that make a place dense, itself included; as many as a topic would leave half of the segments out.
NEIGHBOURS: Final = 2


async def grouped(vectors: NDArray[np.float32]) -> list[int]:
    """The number of each row's group, from 0; negative for none. The same for the same vectors in the same order.

    Args:
        vectors: A unit vector a row, at least `SIZE_LEAST` of them.

    Raises:
        Retryable: The process failed, or took too long; carries the end of what it said.
    """
    return [int(number) for number in await aside(groups_of, vectors)]


def groups_of(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """What `grouped` gives, made in this process."""
    from sklearn.cluster import HDBSCAN  # 1 s and 100 MB: only who groups pays for it

    rows = _reduced(np.asarray(vectors, np.float64))
    # vectors that are all equal have no dense places: they are one
    if not np.ptp(rows, axis=0).any():
        return np.zeros(len(rows), np.int64)
    size = max(SIZE_LEAST, int(SIZE_SHARE * len(rows)))
    model = HDBSCAN(min_cluster_size=size, min_samples=NEIGHBOURS, n_jobs=1, copy=True)
    return np.asarray(model.fit_predict(rows), np.int64)


def _reduced(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The principal components, of unit length again: directions are compared, not how far they go."""
    rows = rows - rows.mean(axis=0)
    if rows.shape[1] > DIMENSIONS:
        _, axes = np.linalg.eigh(rows.T @ rows)
        rows = rows @ axes[:, ::-1][:, :DIMENSIONS]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0))
