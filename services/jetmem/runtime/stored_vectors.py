"""A vector as projections store it: behind a mark; or why there is none."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem_schemas.internal import Vector

#: First byte of a vector: float32 of the machine's order follow.
VECTOR_MARK: Final = b"v"
#: First byte where a text could not be embedded: the reason follows.
EMPTY_MARK: Final = b"!"
_NOT_A_VECTOR: Final = b"not a vector of this model"


def stored(vector: Vector, dimensions: int) -> bytes:
    """What is stored of a vector that came.

    Args:
        vector: From embed.
        dimensions: Of the model; 0 while its first vector has yet to say.
    """
    if not vector.data:
        return EMPTY_MARK + vector.reason.encode()
    length = len(vector.data) // 4
    if len(vector.data) % 4 or length != (dimensions or length) or not np.isfinite(_numbers(vector.data)).all():
        return EMPTY_MARK + _NOT_A_VECTOR
    return VECTOR_MARK + vector.data


def dimensions_of(raw: bytes) -> int:
    """Of what is stored; 0 if there is no vector."""
    return (len(raw) - 1) // 4 if raw.startswith(VECTOR_MARK) else 0


def vector_of(raw: bytes) -> NDArray[np.float32]:
    """The numbers of a stored vector, behind its mark."""
    return _numbers(raw, 1)


def _numbers(data: bytes, offset: int = 0) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype=np.float32, offset=offset)
