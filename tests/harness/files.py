"""What files hold."""

from pathlib import Path


def grep(word: bytes, *folders: Path) -> list[str]:
    """Files below the folders that hold these bytes anywhere."""
    return sorted(str(f) for folder in folders for f in folder.rglob("*") if f.is_file() and word in _bytes(f))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # removed since it was listed
        return b""
