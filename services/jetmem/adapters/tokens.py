"""The model's own tokenizer: tokens for the encoder, passages for long texts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tokenizers import Encoding, Tokenizer

from jetmem.adapters.model_files import TOKENIZER, find_folder, window_of
from jetmem.runtime.errors import Broken
from jetmem.runtime.limits import PASSAGES_MAX

#: Shared by neighbouring passages, so that a sentence on the border is whole in one of them.
OVERLAP_TOKENS: Final = 32
#: Characters tokenised per passage at first: 256 tokens of English are some 1,100, of dense code 700.
BLOCK_CHARS: Final = 2_048
#: … and at most, where tokens are long (white space, words of over 100 characters): bounds the work.
BLOCK_CHARS_MAX: Final = 32_768
#: The encoder looks at no more of a text: 256 tokens lie far within it; the rest would be tokenised for nothing.
ENCODE_CHARS_MAX: Final = 32_768

_SENTENCE_END: Final = re.compile(r"\n|[.!?…](?=\s)|[。！？]")
_SPACE: Final = re.compile(r"\s+")
#: Half a character: no valid UTF-8 holds it and the tokenizer refuses it.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a model's tokenizer without the padding and truncation that its file may carry.

    all-MiniLM-L6-v2's file pads to and cuts at 128 tokens; its window is 256.

    Raises:
        Broken: Missing or unreadable.
    """
    # Rust threads in every worker would fight the encoder's for the same cores, and warn after a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:
        raise Broken(f"cannot load {folder / TOKENIZER}: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class Tokens:
    """Token ids of texts, cut at the window, [CLS] and [SEP] included."""

    def __init__(self, folder: Path, window_tokens: int) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._tokenizer.enable_truncation(window_tokens)
        pad = self._tokenizer.token_to_id("[PAD]")
        self.pad_id: int = 0 if pad is None else pad

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, in the order of the texts; characters beyond `ENCODE_CHARS_MAX` are not looked at."""
        cut = [_SURROGATE.sub("\ufffd", text[:ENCODE_CHARS_MAX]) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(cut)
        return [encoding.ids for encoding in encodings]


class WindowSplitter:
    """Cuts a text into passages that fit the encoder's window.

    Guarantees:
        Passages are literal substrings in order of appearance, each within the window, at least one and at
        most `PASSAGES_MAX`; what a text has beyond that gets no vector and is found by its words only.
        Up to there every character but white space at a border is in some passage.
    """

    def __init__(self, folder: Path, window_tokens: int) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._limit = window_tokens - self._tokenizer.num_special_tokens_to_add(False)
        self._overlap = min(OVERLAP_TOKENS, self._limit // 4)

    def split(self, text: str) -> list[str]:
        """Split one text; short ones come back as they are, without being tokenised."""
        # A token is at least one byte: so few bytes always fit.
        if len(text) <= self._limit and len(text.encode("utf-8", "surrogatepass")) <= self._limit:
            return [text]
        passages: list[str] = []
        start = 0
        while start < len(text) and len(passages) < PASSAGES_MAX:
            end, following = self._passage(text, start)
            passage = text[start:end].strip()
            if passage:
                passages.append(passage)
            start = following
        return passages or [text[: self._limit]]

    def _passage(self, text: str, start: int) -> tuple[int, int]:
        """Where the passage from `start` ends, and where the next one begins."""
        offsets, block_end = self._tokens_from(text, start)
        if len(offsets) <= self._limit and block_end == len(text):
            return block_end, block_end
        hard_end = start + offsets[self._limit][0] if len(offsets) > self._limit else block_end
        end = self._fitting(text, start, self._natural_end(text, start, hard_end))
        if end == len(text):
            return end, end
        return end, self._next_start(text, start, end, offsets)

    def _tokens_from(self, text: str, start: int) -> tuple[list[tuple[int, int]], int]:
        size = BLOCK_CHARS
        while True:
            block = text[start : start + size]
            offsets = self._encode(block).offsets
            if len(offsets) > self._limit or start + size >= len(text) or size >= BLOCK_CHARS_MAX:
                return offsets, start + len(block)
            size *= 4

    def _encode(self, text: str) -> Encoding:
        # One character for one: offsets stay those of the text.
        return self._tokenizer.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False)

    def _natural_end(self, text: str, start: int, hard_end: int) -> int:
        """The last sentence or line end in the final half, else word end in the final quarter, else hard."""
        span = hard_end - start
        ends = [match.end() for match in _SENTENCE_END.finditer(text, hard_end - span // 2, hard_end)]
        if not ends:
            ends = [match.start() for match in _SPACE.finditer(text, hard_end - span // 4, hard_end)]
        return ends[-1] if ends and ends[-1] > start else hard_end

    def _fitting(self, text: str, start: int, end: int) -> int:
        """Shrink until it fits: a word cut in two may have more tokens than it had as part of the whole."""
        while end - start > 1 and len(offsets := self._encode(text[start:end]).offsets) > self._limit:
            end = max(start + 1, min(end - 1, start + offsets[self._limit][0]))
        return end

    def _next_start(self, text: str, start: int, end: int, offsets: list[tuple[int, int]]) -> int:
        """Begin the next passage `OVERLAP_TOKENS` before this one's end, at a word if there is one."""
        inside = [offset for offset in offsets if start + offset[1] <= end]
        if len(inside) <= self._overlap * 2:
            return end
        back = start + inside[-self._overlap][0]
        space = _SPACE.search(text, back, end)
        following = space.end() if space and space.end() < end else back
        return following if following > start else end


def open_splitter(model: str) -> WindowSplitter:
    """Open the splitter of a model; needs its tokenizer only and loads no weights.

    Args:
        model: As for `open_encoder`.

    Raises:
        Broken: The model or its tokenizer is missing.
    """
    folder, _local = find_folder(model)
    return WindowSplitter(folder, window_of(folder))
