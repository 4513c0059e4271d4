"""A small disk of a test's own, to be filled: a tmpfs, which only root may mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A folder that is a disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"

    def free_share(self) -> float:
        found = os.statvfs(self._folder)
        return found.f_bavail / found.f_blocks

    def take(self, share: float) -> None:
        """Use so much more of the whole disk, or what is left of it."""
        found = os.statvfs(self._folder)
        wanted = min(int(found.f_blocks * share), found.f_bavail) * found.f_frsize
        with self._ballast.open("ab") as file:
            if wanted:
                os.posix_fallocate(file.fileno(), file.tell(), wanted)

    def clear(self) -> None:
        """Give back what was taken."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount one at a folder, which is made; whatever is on it goes with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:  # the machine's to allow, unlike a program that is missing
        pytest.skip(f"a disk to be filled cannot be mounted here, which needs root: {done.stderr}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
