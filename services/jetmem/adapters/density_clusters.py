"""Groups of vectors that lie densely together, by HDBSCAN (Campello and others, 2013) of scikit-learn.

It runs in a process of its own with the lowest priority: it takes seconds, holds the interpreter while it does, and
scikit-learn, which only this needs, takes 0.1 GB. The vectors go in by standard input, the groups come out by standard
output, and the process ends; one that lost its parent ends by itself.

Chosen on LoCoMo dev (128 segments of five conversations, all-MiniLM-L6-v2), see decision 0020.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.priority import give_way
from jetmem.runtime.errors import Retryable

#: Principal components that are looked at: distances in all 384 dimensions are nearly equal.
DIMENSIONS: Final = 10
#: Segments that make a topic. Fewer are a coincidence: with 3 topics come and go (stability 0.71 instead of 0.83).
SIZE_LEAST: Final = 5
#: … and the share of all, so that there are at most as many topics as anybody reads a list of.
SIZE_SHARE: Final = 1 / 400
#: Neighbours that make a place dense, itself included; as many as a topic would leave half of the segments out.
NEIGHBOURS: Final = 2
#: 10 times what the most vectors that are ever grouped take on a busy core; beyond it something hangs.
TIMEOUT_S: Final = 600.0
_LOWEST: Final = 19
_STDERR_CHARS: Final = 800
#: Threads of the numeric libraries; the other cores are for those who are waited for.
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


async def grouped(vectors: NDArray[np.float32]) -> list[int]:
    """The number of each row's group, from 0; negative for none. The same for the same vectors in the same order.

    Args:
        vectors: A unit vector a row, at least `SIZE_LEAST` of them.

    Raises:
        Retryable: The process failed, or took too long; carries the end of what it said.
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environ |= dict.fromkeys(_ONE_THREAD, "1")
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=pipe, stdout=pipe, stderr=pipe, env=environ
        )
    except OSError as error:
        raise Retryable(f"clustering cannot be started: {error}") from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate(await asyncio.to_thread(_packed, vectors))
    except TimeoutError as error:
        raise Retryable(f"clustering took more than {TIMEOUT_S:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise Retryable(f"clustering failed ({process.returncode}): {err.decode(errors='replace')[-_STDERR_CHARS:]}")
    try:
        return [int(number) for number in np.load(io.BytesIO(out))]
    except (OSError, ValueError, EOFError) as error:
        raise Retryable(f"clustering said nothing that can be read: {type(error).__name__}") from error


def _packed(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


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


def main() -> None:
    """The child: vectors in by standard input, groups out by standard output."""
    give_way(_LOWEST)
    vectors = np.load(io.BytesIO(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(_packed(groups_of(vectors)))


if __name__ == "__main__":
    main()
