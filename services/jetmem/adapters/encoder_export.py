"""Makes ONNX files and reference vectors from a model's weights, once, in a process of its own.

Import time and memory of torch (some 5 s and 400 MB) stay out of the process that serves.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.encoder_samples import REFERENCE_TEXTS
from jetmem.adapters.model_files import ModelFiles, locked, sha256_of, write_atomically
from jetmem.runtime.errors import Broken

#: Raise it when what is exported changes: old exports are then made again.
EXPORTER_VERSION: Final = 1
#: Some 10 s where little else runs; beyond this the machine is unusable or the exporter hangs.
EXPORT_TIMEOUT_S: Final = 600.0
#: Last lines of a failed child that go into the error.
STDERR_CHARS: Final = 800

#: In int8 these two of 36 weight products cost most exactness, of very short texts above all (measured).
KEPT_FP32: Final = re.compile(r"layer\.[01]/output/dense/MatMul")
FP32: Final = "fp32.onnx"
INT8: Final = "int8.onnx"
REFERENCE: Final = "reference.npy"
MANIFEST: Final = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an export holds; written last.

    Attributes:
        sha256: By file name.
        dimensions: Length of a vector.
        onnx_failure: Why there is no ONNX file, or "".
    """

    sha256: dict[str, str]
    dimensions: int
    onnx_failure: str


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """A verified export on disk."""

    folder: Path
    manifest: Manifest

    def reference(self) -> NDArray[np.float32]:
        """Vectors of `REFERENCE_TEXTS` by torch fp32."""
        loaded: NDArray[np.float32] = np.load(self.folder / REFERENCE, allow_pickle=False)
        return loaded


def export_key(files: ModelFiles) -> str:
    """What an export depends on: files, exporter, reference texts, onnxruntime."""
    texts = hashlib.sha256("\0".join(REFERENCE_TEXTS).encode()).hexdigest()
    parts = (files.shape_sha256, str(EXPORTER_VERSION), texts, installed("onnxruntime"))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def installed(package: str) -> str:
    """Version of an installed package, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def ensure_export(files: ModelFiles, cache_dir: Path, needed: Sequence[str]) -> Export:
    """Return the export of a model, making it if it is absent or damaged.

    Args:
        files: The model.
        cache_dir: Made if absent; may be shared between processes.
        needed: Files about to be used: only these are hashed, as hashing all costs a tenth of a second.

    Raises:
        Broken: It cannot be made.

    Guarantees:
        Processes that ask together make it once; one killed half-way leaves nothing that is taken for whole.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        target = cache_dir / f"export-{export_key(files)}"
        found = verified(target, needed)
        if found is not None:
            return found
        with locked(cache_dir / f"{target.name}.lock"):
            found = verified(target, needed)
            return found if found is not None else _make(files, target, needed)
    except OSError as error:
        raise Broken(f"cannot use the model cache {cache_dir}: {error}") from error


def verified(folder: Path, needed: Sequence[str]) -> Export | None:
    """Read an export; None if it is absent or what is needed of it is damaged."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None
    for name in {REFERENCE, *needed} & ({REFERENCE} | (set() if manifest.onnx_failure else {FP32, INT8})):
        path = folder / name
        if not path.is_file() or sha256_of(path) != manifest.sha256.get(name):
            return None
    return Export(folder=folder, manifest=manifest)


def _make(files: ModelFiles, target: Path, needed: Sequence[str]) -> Export:
    """Under the lock: export beside the target, then rename."""
    for left in target.parent.glob(f"{target.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    partial.mkdir()
    run_child("jetmem.adapters.encoder_export", [str(files.folder), str(partial)], local=files.local)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    made = verified(target, needed)
    if made is None:
        raise Broken(f"the export {target} is damaged as soon as it is written: is the disk full or failing?")
    return made


def run_child(module: str, arguments: Sequence[str], *, local: bool) -> None:
    """Run one of our modules in a process of its own.

    Raises:
        Broken: It fails; carries the end of what it said.
    """
    # The child sees our packages wherever they came from, and must not ask a hub for files that lie here.
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environ["TOKENIZERS_PARALLELISM"] = "false"
    if local:
        environ["HF_HUB_OFFLINE"] = "1"
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=EXPORT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Broken(f"{module} took more than {EXPORT_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise Broken(f"{module} failed ({done.returncode}): {done.stderr[-STDERR_CHARS:].strip()}")


def main(arguments: Sequence[str]) -> None:
    """Child process: export the model in folder `arguments[0]` into folder `arguments[1]`."""
    from jetmem.adapters.encoder_torch import load_sentence_transformer

    folder, out = Path(arguments[0]), Path(arguments[1])
    model = load_sentence_transformer(folder, "torch-fp32", exportable=True)
    reference = model.encode(list(REFERENCE_TEXTS), batch_size=8, normalize_embeddings=True)
    np.save(out / REFERENCE, np.asarray(reference, np.float32))
    failure = ""
    try:
        _export_fp32(model, out / FP32)
        _quantise(out / FP32, out / INT8)
    except Exception as error:  # any model that torch can run is served by torch then
        failure = f"cannot be exported to ONNX: {type(error).__name__}: {error}"[:STDERR_CHARS]
    made = [REFERENCE] if failure else [REFERENCE, FP32, INT8]
    manifest = Manifest(
        sha256={name: sha256_of(out / name) for name in made},
        dimensions=int(np.asarray(reference).shape[1]),
        onnx_failure=failure,
    )
    for name in made:
        _to_disk(out / name)
    write_atomically(out / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


def _export_fp32(model: Any, path: Path) -> None:
    import torch

    class WithPooling(torch.nn.Module):  # type: ignore[misc, unused-ignore]  # torch may be untyped
        """Transformer, pooling and normalisation in one graph."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            vectors = self.model({"input_ids": tokens, "attention_mask": mask})["sentence_embedding"]
            return torch.nn.functional.normalize(vectors, p=2, dim=1)

    tokens = torch.randint(1000, 2000, (3, 17))
    mask = torch.ones_like(tokens)
    mask[1, 9:] = 0
    # "vectors", not "embedding": the latter collides with a node's own output name.
    named: dict[str, Any] = {"input_names": ["tokens", "mask"], "output_names": ["vectors"]}
    axes = {0: "texts", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # onnxruntime fuses this exporter's graph better: 13 % faster than the newer one's.
            torch.onnx.export(
                WithPooling(), (tokens, mask), str(path), dynamo=False, opset_version=17,
                dynamic_axes={"tokens": axes, "mask": axes, "vectors": {0: "texts"}}, **named,
            )  # fmt: skip
        except Exception:
            count, length = torch.export.Dim("texts", min=1, max=4096), torch.export.Dim("length", min=2, max=512)
            dims = {0: count, 1: length}
            torch.onnx.export(
                WithPooling(), (tokens, mask), str(path), dynamo=True, external_data=False,
                dynamic_shapes={"tokens": dims, "mask": dims}, **named,
            )  # fmt: skip


def _quantise(fp32: Path, int8: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(fp32, load_external_data=False).graph
    kept = [node.name for node in graph.node if node.op_type == "MatMul" and KEPT_FP32.search(node.name)]
    # Per channel: 0.991 mean cosine against 0.951 per tensor. Signed weights: unsigned ones have no VNNI
    # kernel and run at half the speed. Full range: VNNI does not saturate; where it would, the check notices.
    quantize_dynamic(
        fp32, int8, per_channel=True, reduce_range=False, weight_type=QuantType.QInt8, nodes_to_exclude=kept
    )


def _to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


if __name__ == "__main__":
    main(sys.argv[1:])
