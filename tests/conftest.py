"""The same tests on every machine: what a person's terminal, proxy, or settings say is not theirs, nor is its speed."""

import os

from hypothesis import HealthCheck, settings

#: How wide and colourful a terminal is; rich and typer read these also where there is none.
_TERMINAL = (
    "CLICOLOR", "CLICOLOR_FORCE", "COLORTERM", "COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "LINES", "NO_COLOR",
    "PY_COLORS", "TERMINAL_WIDTH", "TTY_COMPATIBLE", "TTY_INTERACTIVE",
)  # fmt: skip
#: Where a name like this is read, loopback is asked through it.
_PROXY = "_proxy"
#: Settings of whatever pipeline its owner runs.
_OURS = "JETMEM_"

for _name in list(os.environ):
    if _name.startswith(_OURS) or _name in _TERMINAL or _name.lower().endswith(_PROXY):
        del os.environ[_name]
os.environ["TERM"] = "dumb"

# an example that takes long is a slow machine, not a bug
settings.register_profile("jetmem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jetmem")
