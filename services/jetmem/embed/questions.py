"""Questions: encoded now, past every batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from jetmem.embed import core
from jetmem.embed.ports import Encoder
from jetmem.embed.recent import Recent
from jetmem.runtime import metrics
from jetmem.runtime.errors import Poison, RequestFailed
from jetmem_schemas.internal import EncodeReply, EncodeRequest

#: The encoder answers questions one after the other; the second thread prepares the next.
THREADS: Final = 2
#: The same question is asked again when it is paged or narrowed.
RECENT_QUESTIONS: Final = 256


class Questions:
    """Answers `encode`; each question is encoded by itself, so that its vector does not depend on its neighbours."""

    def __init__(self, encoder: Callable[[], Encoder]) -> None:
        self.texts = 0
        self._encoder = encoder
        self._recent = Recent(RECENT_QUESTIONS)
        self._threads = ThreadPoolExecutor(THREADS, "questions")

    async def answer(self, partition: int, request: EncodeRequest) -> EncodeReply:
        """Encode one request.

        Raises:
            RequestFailed: `too_large`; `bad_field` if a text cannot be encoded.
        """
        core.check_question(request)
        known = self._recent.known(request.texts)
        lacking = [text for text in dict.fromkeys(request.texts) if text not in known]
        if lacking:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._encode, lacking)
            self._recent.keep(found.items())
            known |= found
            self.texts += len(lacking)
        return EncodeReply(self._encoder().model, [known[text] for text in request.texts])

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _encode(self, texts: list[str]) -> dict[str, bytes]:
        with metrics.encode_seconds.labels("question").time():
            try:
                rows = np.asarray(self._encoder().encode(texts, interactive=True), dtype="<f4")
            except Poison as error:
                raise RequestFailed("bad_field", f"the text cannot be encoded: {error.message}", "texts") from error
        if not np.isfinite(rows).all():
            raise RequestFailed("bad_field", "the text has no finite vector", "texts")
        metrics.embedded.labels("question").inc(len(texts))
        return {text: rows[at].tobytes() for at, text in enumerate(texts)}
