"""`python -m jetmem.docs`: write everything that is generated."""

from __future__ import annotations

import sys
from pathlib import Path

from jetmem.docs.files import write


def main() -> None:
    """Write it, and say what changed."""
    for path in write(Path.cwd()):
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
