"""What an expression of PromQL names: metrics with the labels of their selectors, and labels it groups by."""

import re
from typing import Final, NamedTuple

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_DURATION: Final = re.compile(r"\[[^\]]*\]")
_SELECTOR: Final = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)?\s*\{(?P<labels>[^}]*)\}")
_LABEL: Final = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")
_GROUPED: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME: Final = re.compile(r"(?<![\w.:])([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()")
_WORDS: Final = frozenset({"or", "and", "unless", "by", "without", "on", "ignoring", "bool", "offset", "group_left"})


class Named(NamedTuple):
    """Labels that selectors ask for, by metric; labels that the result is grouped by."""

    metrics: dict[str, set[str]]
    grouped: set[str]


def named(expr: str) -> Named:
    """Read one expression that Prometheus accepts."""
    text = _DURATION.sub("", _STRING.sub('""', expr))
    metrics: dict[str, set[str]] = {}
    for found in _SELECTOR.finditer(text):
        assert found["name"], f"a selector without a metric: {expr}"
        metrics.setdefault(found["name"], set()).update(_LABEL.findall(found["labels"]))
    grouped = {label.strip() for found in _GROUPED.findall(text) for label in found.split(",")} - {""}
    rest = _SELECTOR.sub(" 0 ", _GROUPED.sub(" ", text))
    for name in _NAME.findall(rest):
        if name not in _WORDS:
            metrics.setdefault(name, set())
    return Named(metrics, grouped)
