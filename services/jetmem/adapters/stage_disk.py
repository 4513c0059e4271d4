"""What a stage's folder takes on disk, and what is left there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock

#: Looking at each file takes milliseconds; who asks more often gets what was found last.
_LOOK_EVERY_S: Final = 5.0


class StageDisk:
    """Measures the folder of one stage when `/metrics` is asked for; a stage without one has nothing to say."""

    def __init__(self, stage: str, folder: Path, clock: Clock) -> None:
        self._stage = stage
        self._folder = folder
        self._clock = clock
        self._look_at = 0.0

    def observe(self) -> None:
        """Set sizes; a file that goes meanwhile counts nothing."""
        now = self._clock.monotonic()
        if now < self._look_at or not self._folder.is_dir():
            return
        self._look_at = now + _LOOK_EVERY_S
        for store, size in sizes(self._folder, self._stage).items():
            metrics.store_bytes.labels(self._stage, store).set(size)
        usage = shutil.disk_usage(self._folder)
        metrics.disk_free_bytes.labels(self._stage).set(usage.free)
        metrics.disk_bytes.labels(self._stage).set(usage.total)


def sizes(folder: Path, name: str) -> dict[str, int]:
    """Bytes of all files below each subfolder, and under `name` of those that are in none."""
    found = {name: 0}
    for at, _, files in os.walk(folder):
        below = Path(at).relative_to(folder).parts
        store = below[0] if below else name
        found.setdefault(store, 0)
        for file in files:
            try:
                found[store] += (Path(at) / file).stat().st_size
            except OSError:  # removed since
                continue
    return {store: size for store, size in found.items() if size or store != name}
