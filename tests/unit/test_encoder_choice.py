"""Which precision serves, how batches are laid out, how damaged files are noticed: no model involved."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from jetmem.adapters.encoder_batches import BATCH_TOKENS_MAX, micro_batches, padded
from jetmem.adapters.encoder_choice import AUTO, PRECISIONS, candidates_of, choose, cosines, failed, judge
from jetmem.adapters.encoder_export import FP32, INT8, MANIFEST, REFERENCE, Manifest, verified
from jetmem.adapters.encoder_samples import REFERENCE_TEXTS, timing_texts
from jetmem.adapters.model_files import find_model, sha256_of
from jetmem.runtime.errors import Broken, Poison
from jetmem.testing.encoder import POISON_MARKER, FakeEncoder


def test_the_fastest_exact_precision_is_chosen() -> None:
    fast, slow = judge("onnx-int8", 600, 0.991, 0.97), judge("onnx-fp32", 300, 1.0, 1.0)
    assert choose([slow, fast]).precision == "onnx-int8"


@pytest.mark.parametrize(("mean", "least"), [(0.984, 0.97), (0.99, 0.949), (float("nan"), float("nan"))])
def test_an_inexact_precision_is_never_chosen(mean: float, least: float) -> None:
    inexact = judge("onnx-int8", 9_000, mean, least)
    assert not inexact.accepted
    assert choose([inexact, judge("onnx-fp32", 10, 1.0, 1.0)]).precision == "onnx-fp32"


def test_torch_must_be_worth_its_weight() -> None:
    onnx = judge("onnx-fp32", 100, 1.0, 1.0)
    assert choose([onnx, judge("torch-bf16", 115, 1.0, 1.0)]).precision == "onnx-fp32"
    assert choose([onnx, judge("torch-bf16", 125, 1.0, 1.0)]).precision == "torch-bf16"


def test_no_usable_precision_says_why_for_each() -> None:
    with pytest.raises(Broken, match=r"onnx-int8: too far.*onnx-fp32: no such file"):
        choose([judge("onnx-int8", 1, 0.9, 0.9), failed("onnx-fp32", "no such file")])


def test_settings_name_candidates() -> None:
    assert candidates_of("auto") == AUTO
    assert sorted(p for group in AUTO for p in group) == sorted(PRECISIONS)
    assert candidates_of("onnx-fp32") == (("onnx-fp32",),)
    with pytest.raises(Broken, match="int4"):
        candidates_of("int4")


def test_on_a_gpu_torch_serves() -> None:
    assert candidates_of("auto", "cuda") == (("torch-bf16", "torch-fp32"),)
    assert candidates_of("torch-fp32", "cuda") == (("torch-fp32",),)
    with pytest.raises(Broken, match="precision onnx-int8 runs on processors only; device cuda takes auto"):
        candidates_of("onnx-int8", "cuda")


def test_a_vector_of_nan_has_the_worst_cosine() -> None:
    good = np.eye(2, dtype=np.float32)
    bad = good.copy()
    bad[1] = np.nan
    assert cosines(bad, good) == (0.0, -1.0)


def test_micro_batches_hold_every_row_once_within_bounds() -> None:
    lengths = [3, 256, 9, 256, 17, 40, 41, 2, 256, 200, *range(2, 120)]
    batches = micro_batches(lengths, 16)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest, shortest = max(lengths[row] for row in batch), min(lengths[row] for row in batch)
        assert len(batch) <= 16
        assert len(batch) * longest <= BATCH_TOKENS_MAX
        assert shortest * 2 >= longest
    assert micro_batches([], 16) == []
    assert micro_batches([9_999], 16) == [[0]]


def test_padding_is_masked() -> None:
    tokens, mask = padded([[101, 7, 102], [101, 102]], 9)
    assert tokens.tolist() == [[101, 7, 102], [101, 102, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_samples_are_distinct() -> None:
    assert len(set(REFERENCE_TEXTS)) == len(REFERENCE_TEXTS) == 24
    assert len(timing_texts(128)) == 128


def test_a_damaged_export_is_not_taken(tmp_path: Path) -> None:
    for name in (FP32, INT8, REFERENCE):
        (tmp_path / name).write_bytes(name.encode())
    hashes = {name: sha256_of(tmp_path / name) for name in (FP32, INT8, REFERENCE)}
    assert verified(tmp_path, []) is None
    manifest = Manifest(sha256=hashes, dimensions=384, onnx_failure="")
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    assert verified(tmp_path, [INT8]) is not None
    (tmp_path / INT8).write_bytes(b"damaged")
    assert verified(tmp_path, [INT8]) is None
    assert verified(tmp_path, [FP32]) is not None
    (tmp_path / MANIFEST).write_bytes(b"{")
    assert verified(tmp_path, [FP32]) is None


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="does not exist"):
        find_model(str(tmp_path / "nowhere"))
    with pytest.raises(Broken, match=r"has no model\.safetensors"):
        find_model(str(tmp_path))


def test_the_fake_fails_on_demand() -> None:
    fake = FakeEncoder()
    assert fake.encode(["fine"]).shape == (1, 384)
    with pytest.raises(Poison):
        fake.encode(["fine", f"not {POISON_MARKER}"])
    fake.failure = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        fake.encode(["fine"])
