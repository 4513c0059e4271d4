"""Times as people give them."""

from __future__ import annotations

import re
import time
from typing import Final

_AGO: Final = re.compile(r"(\d{1,9})([smhdw])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def moment(text: str | None) -> str | int | None:
    """A time as people give it, as requests take it; what is not understood is left to the service to refuse."""
    if text is None:
        return None
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    ago = _AGO.fullmatch(text)
    if ago:
        return int((time.time() - int(ago[1]) * _UNIT_S[ago[2]]) * 1000)
    return f"{text}T00:00:00Z" if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else text
