"""One suite for the fake and the real encoder and splitter."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetmem.adapters.encoder import open_encoder
from jetmem.adapters.encoder_export import INT8, ensure_export
from jetmem.adapters.model_files import PACKAGED_MODEL, find_model
from jetmem.adapters.tokens import Tokens, open_splitter
from jetmem.embed.ports import Encoder
from jetmem.index.ports import Splitter
from jetmem.runtime.errors import Broken
from jetmem.runtime.limits import PASSAGES_MAX
from jetmem.testing.encoder import FakeEncoder, FakeSplitter

#: Kept between runs: exporting takes half a minute, and its key changes with whatever it depends on.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", tempfile.gettempdir())) / "jetmem-test-models"
WORDS = "the quick brown fox jumps over lazy dogs. "


@pytest.fixture(scope="module", params=["fake", "real"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each of the two."""
    return FakeEncoder() if request.param == "fake" else _real()


@pytest.fixture(scope="module", params=["fake", "real"])
def splitter(request: pytest.FixtureRequest) -> Splitter:
    """Each of the two."""
    return FakeSplitter() if request.param == "fake" else open_splitter(PACKAGED_MODEL)


def _real() -> Any:
    return open_encoder(cache_dir=CACHE, precision="onnx-int8")


def test_a_gpu_that_is_not_there_is_refused_and_not_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Broken, match="JETMEM_EMBED_DEVICE=cuda"):
        open_encoder(cache_dir=tmp_path, device="cuda")
    assert list(tmp_path.iterdir()) == []


def test_one_normalised_row_per_text_in_order(encoder: Encoder) -> None:
    texts = [WORDS * 60, "fox", "", "a longer text about a fox and a dog", "\ud800 \x00 🎉", "fox"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (6, encoder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)
    alone = np.stack([encoder.encode([text])[0] for text in texts])
    assert np.sum(vectors * alone, axis=1).min() > 0.95
    assert encoder.encode([]).shape == (0, encoder.dimensions)


def test_equal_words_are_closer_than_others(encoder: Encoder) -> None:
    vectors = encoder.encode(["the cat sat on the mat", "a cat sat on a mat", "quarterly revenue fell"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_both_lanes_agree(encoder: Encoder) -> None:
    texts = ["what did she say?", "the build failed again"]
    both = np.sum(encoder.encode(texts) * encoder.encode(texts, interactive=True), axis=1)
    assert both.min() > 0.99


def test_both_lanes_may_be_used_by_many_threads(encoder: Encoder) -> None:
    texts = [f"note number {n} about the harbour" for n in range(12)]
    wanted = encoder.encode(texts)

    def ask(n: int) -> float:
        return float(np.sum(encoder.encode(texts, interactive=n % 2 == 0) * wanted, axis=1).min())

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(ask, range(16))) > 0.98


def test_identity_names_weights_and_no_precision(encoder: Encoder) -> None:
    name, _, weights = encoder.model.partition("@")
    assert name
    assert len(weights) == 8
    assert encoder.precision not in encoder.model
    assert encoder.window_tokens == 256


def test_an_interactive_text_passes_a_batch() -> None:
    fake = FakeEncoder()
    fake.gate.clear()
    batch = threading.Thread(target=fake.encode, args=(["slow"],))
    batch.start()
    assert fake.encode(["quick"], interactive=True).shape == (1, 384)
    assert batch.is_alive()
    fake.gate.set()
    batch.join(30)
    assert not batch.is_alive()


def test_serving_with_onnx_loads_no_torch() -> None:
    import subprocess

    code = "import sys; import jetmem.adapters.encoder; sys.exit('torch' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0


def test_the_choice_is_reported() -> None:
    report = _real().report
    assert [each.precision for each in report.candidates] == ["onnx-int8"]
    assert report.candidates[0].accepted
    assert report.candidates[0].texts_per_s > 0
    assert report.model == "all-MiniLM-L6-v2@53aa5117"


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    files = find_model(PACKAGED_MODEL)
    whole = ensure_export(files, CACHE, [INT8])
    copy = tmp_path / whole.folder.name
    copy.mkdir()
    for path in whole.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / INT8).write_bytes(b"damaged")
    made = ensure_export(files, tmp_path, [INT8])
    assert (made.folder / INT8).stat().st_size > 1_000_000
    assert not list(tmp_path.glob("*.tmp-*"))


def test_short_texts_come_back_as_they_are(splitter: Splitter) -> None:
    for text in ("", " two  words \n", "x" * 254, "ok"):
        assert splitter.split(text) == [text]


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"word{n}." for n in range(2_000)),
        "".join(f"{n}_" for n in range(4_000)),
        "x" * 5_000,
        "".join(chr(0x4E00 + n) for n in range(3_000)),
        "\n".join(f"line_{n} = of(code)" for n in range(500)),
        " " * 9_000 + "end",
        "\ud800".join(str(n) for n in range(900)),
    ],
)
def test_passages_are_literal_and_bounded(splitter: Splitter, text: str) -> None:
    passages = splitter.split(text)
    assert 1 <= len(passages) <= PASSAGES_MAX
    reached = 0
    for passage in passages:
        at = text.find(passage, max(0, reached - len(passage)))
        assert at >= 0
        assert not text[reached:at].strip()
        reached = max(reached, at + len(passage))
    if len(passages) < PASSAGES_MAX:
        assert not text[reached:].strip()


@pytest.mark.parametrize("text", [WORDS * 200, "no_space_" * 2_000, "ab1!" * 9_000, "字" * 3_000, "x" * 90_000])
def test_real_passages_fit_the_window(text: str) -> None:
    files = find_model(PACKAGED_MODEL)
    wide = Tokens(files.folder, 100_000)
    passages = open_splitter(PACKAGED_MODEL).split(text)
    assert len(passages) > 1
    assert max(len(ids) for ids in wide.ids(passages)) <= files.window_tokens


@pytest.mark.parametrize("piece", [WORDS, "x", " ", "字", "ab1! ", "\n"])
def test_a_very_long_text_is_split_within_a_second(piece: str) -> None:
    splitter = open_splitter(PACKAGED_MODEL)
    text = (piece * (1 << 20))[: 1 << 20]
    began = time.process_time()
    assert len(splitter.split(text)) <= PASSAGES_MAX
    assert time.process_time() - began < 1.0
