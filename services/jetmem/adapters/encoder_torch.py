"""The model through sentence-transformers: for processors where that is faster, and as the reference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.encoder_batches import Forward
from jetmem.runtime.errors import Broken


def need_gpu() -> None:
    """Refuse a start that could not use what it was given.

    Raises:
        Broken: There is no GPU, or this torch cannot use one.
    """
    try:
        import torch
    except ImportError as error:
        raise Broken(f"device cuda needs torch: {error}") from error
    if not torch.cuda.is_available():
        why = "finds none" if torch.version.cuda else "is a build for processors"
        raise Broken(f"embed is told to use a GPU (JETMEM_EMBED_DEVICE=cuda), but torch {torch.__version__} {why}")


def load_sentence_transformer(folder: Path, precision: str, *, exportable: bool = False, device: str = "cpu") -> Any:
    """Load the model from its folder, never from the hub.

    Args:
        folder: Local files.
        precision: torch-bf16 or torch-fp32.
        exportable: Plain attention, which every exporter and optimiser knows.
        device: cpu or cuda.

    Raises:
        Broken: torch or sentence-transformers is not installed, or they refuse the files.
    """
    # Files are local: asking the hub for updates would stall a start without network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise Broken(f"{precision} and the export need torch and sentence-transformers: {error}") from error
    kwargs: dict[str, Any] = {"dtype": torch.bfloat16 if precision == "torch-bf16" else torch.float32}
    if exportable:
        kwargs["attn_implementation"] = "eager"
    try:
        return SentenceTransformer(str(folder), device=device, model_kwargs=kwargs).eval()
    except Exception as error:
        raise Broken(f"sentence-transformers cannot load {folder}: {error}") from error


def open_torch(folder: Path, precision: str, threads: int, device: str = "cpu") -> Forward:
    """Open the model in torch; a forward is safe in the one thread that runs it."""
    model = load_sentence_transformer(folder, precision, device=device)
    import torch

    torch.set_num_threads(threads)

    def forward(tokens: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            given = {"input_ids": tokens, "attention_mask": mask}
            features = {name: torch.from_numpy(each).to(device) for name, each in given.items()}
            vectors = model(features)["sentence_embedding"].float()
            normalised = torch.nn.functional.normalize(vectors, p=2, dim=1)
        return np.asarray(normalised.cpu().numpy(), np.float32)

    return forward
