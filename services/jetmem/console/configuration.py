"""Settings as the commands find them: defaults, jetmem.toml, environment, flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from jetmem import flow
from jetmem.adapters.data_folder import default_root
from jetmem.adapters.nats_server import NatsSettings
from jetmem.adapters.supervised import UpSettings
from jetmem.runtime.settings import PREFIX, Sections, SettingsError
from jetmem.runtime.settings import load as load_layers

FILE: Final = "jetmem.toml"
NATS: Final = "nats"
UP: Final = "up"


def sections() -> Sections:
    """What may be set: every stage's, and those of `jetmem up` and its nats-server (`JETMEM_NATS_SERVER`)."""
    own: dict[str, type[msgspec.Struct]] = {NATS: NatsSettings, UP: UpSettings}
    return {**flow.sections(), **own}


def data_root(flag: Path | None, environ: Mapping[str, str]) -> Path:
    """The data folder: the flag, `JETMEM_DATA`, or the user's own."""
    if flag is not None:
        return flag.absolute()
    told = environ.get(PREFIX + "DATA", "")
    return Path(told).absolute() if told else default_root(environ)


def settings_file(flag: Path | None, root: Path) -> Path | None:
    """The settings file: the flag (which must exist), or `jetmem.toml` in the data folder if there is one.

    Raises:
        SettingsError: The given file does not exist.
    """
    if flag is None:
        found = root / FILE
        return found if found.is_file() else None
    if not flag.is_file():
        raise SettingsError(f"settings file {flag} does not exist")
    return flag.absolute()


def load(file: Path | None, environ: Mapping[str, str], **flags: Any) -> dict[str, Any]:
    """All settings; a flag of None was not given.

    Raises:
        SettingsError: An unknown name or a value that does not fit.
    """
    return load_layers(sections(), environ=environ, toml=file, flags=flags)
