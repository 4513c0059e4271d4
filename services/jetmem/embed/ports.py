"""What the embed stage needs from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """Turns texts into vectors; equal meaning gives a high dot product.

    Guarantees:
        One batch call and one interactive call may run at the same time; two of the same kind queue.
    """

    @property
    def model(self) -> str:
        """Identity of the vectors, name @ first 8 hex of the weights' sha256.

        Precision is no part of it: every precision is checked against fp32 before it is used.
        """

    @property
    def precision(self) -> str:
        """How it is computed: onnx-int8, onnx-fp32, torch-bf16 or torch-fp32."""

    @property
    def dimensions(self) -> int:
        """Length of one vector."""

    @property
    def window_tokens(self) -> int:
        """Tokens that count, [CLS] and [SEP] included; the rest of a longer text is cut off."""

    def encode(self, texts: Sequence[str], *, interactive: bool = False) -> NDArray[np.float32]:
        """Encode texts.

        Args:
            texts: Any number, any length, any order; sorted by length and micro-batched inside.
            interactive: Somebody waits: run now at normal priority, past any batch.

        Returns:
            One L2-normalised row per text, in the order given; (0, dimensions) for no texts.
        """
