"""Settings in layers: defaults, jetmem.toml, environment, flags. Frozen once built."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from jetmem_schemas import wording
from jetmem_schemas.tenants import zone_of

PREFIX = "JETMEM_"
#: Shapes that many settings share.
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Threads = Annotated[int, Meta(ge=1, le=256)]
#: Not 0, which would spin, and nothing that nobody would wait for.
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class SettingsError(ValueError):
    """A setting that is unknown or has a wrong value; the message names it and where it came from."""


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What every process needs to know.

    Attributes:
        server: Broker URL, comma-separated for a cluster.
        creds: File of an nkey's seed (`jetmem tenant add` writes them) or NATS credentials, or "".
        user: User name, or "".
        password_file: File that holds the password, or "".
        tls_ca: Certificates that vouch for the broker's own; "" for those that this machine trusts.
        data: Folder of all stores; each stage opens only its own below it.
        http_host: Where `/metrics` and `/healthz` listen.
        http_port: Port for them; 0 for none.
        log_level: Least severity shown.
        log_format: `auto` is readable on a terminal and JSON otherwise.
        shard: Ordinal of this process; one beyond the last gives its partitions away.
        shards: Processes that share this stage's 64 partitions; another number moves them (decision 0025).
        crash: Test hook, see `runtime.crashpoints`.
        memory_bytes_max: Most that MEMORY holds on disk; full, it refuses until persist has trimmed it.
        replicas: Of the streams MEMORY, DEAD, KV_TENANTS and KV_OWNERS; 3 on a cluster.
        otlp_endpoint: Collector that traces are sent to, OTLP over HTTP (`http://collector:4318`); "" for none.
        trace_share: Of the traces that begin here, so many are kept; those that come with a message are as it says.
        timezone: Whose days a tenant's days are if it has no own (`jetmem tenant set`): an IANA name.
        streams: `make` what is missing of streams and embed's consumer; `verify` waits for who manages them (NACK).
    """

    server: str = "nats://127.0.0.1:4222"
    creds: str = ""
    user: str = ""
    password_file: str = ""
    tls_ca: str = ""
    data: str = "data"
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    shard: Annotated[int, Meta(ge=0, le=63)] = 0
    shards: Annotated[int, Meta(ge=1, le=64)] = 1
    crash: str = ""
    memory_bytes_max: Annotated[int, Meta(ge=65_536, le=2**50)] = 16 * 1024**3
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    streams: Literal["make", "verify"] = "make"
    otlp_endpoint: str = ""
    trace_share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if self.timezone != "UTC":  # the default must not open a file where a module is imported
            zone_of(self.timezone)
        if self.otlp_endpoint:
            _check_endpoint(self.otlp_endpoint)


def _check_endpoint(text: str) -> None:
    """Without this a process starts, and each of its traces is dropped with a warning.

    Raises:
        ValueError: It is no address that traces can be sent to.
    """
    shown = repr(text[:80])
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError(
            f"otlp_endpoint must begin with http:// or https:// (OTLP over gRPC is not spoken), not {shown}"
        )
    try:
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or too large
        known = False
    if not known or any(each.isspace() for each in text):
        raise ValueError(
            f"otlp_endpoint must name a host, and a port that exists, as in http://collector:4318, not {shown}"
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"otlp_endpoint is a collector without a path, for /v1/traces is added to it, not {shown}")


Sections = Mapping[str, type[msgspec.Struct]]


def load(
    sections: Sections,
    *,
    environ: Mapping[str, str],
    toml: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build every section; the key "" is `Common`.

    Args:
        sections: Name to Struct; environment names are `JETMEM_<FIELD>` or `JETMEM_<SECTION>_<FIELD>`.
        environ: Environment; other names than `JETMEM_*` are not looked at.
        toml: Settings file, if there is one.
        flags: Values from the command line for the "" section; None means not given.

    Raises:
        SettingsError: An unknown name or a value that does not fit.
    """
    raw: dict[str, _Given] = {name: {} for name in sections}
    if toml is not None:
        _from_toml(raw, sections, toml)
    _from_environ(raw, sections, environ)
    for name, value in (flags or {}).items():
        if value is not None:
            raw[""][name] = (value, f"--{name.replace('_', '-')}")
    return {name: _convert(kind, raw[name]) for name, kind in sections.items()}


def secret(file: str, variable: str, environ: Mapping[str, str] | None = None) -> str:
    """A key or password, from a file or else an environment variable; "" if neither is named.

    It is no setting itself, so that nothing that shows settings can show it.

    Raises:
        SettingsError: The file cannot be read, or the variable is not set; without what either holds.
    """
    if file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} cannot be read: {type(error).__name__}") from None
    if not variable:
        return ""
    try:
        return (os.environ if environ is None else environ)[variable].strip()
    except KeyError:
        raise SettingsError(f"environment: {variable} is not set") from None


#: By field: the value, and where it was given, as a sentence begins.
_Given = dict[str, tuple[Any, str]]


def environment(section: str, values: msgspec.Struct) -> dict[str, str]:
    """The environment that gives a child process these values (what differs from the defaults)."""
    prefix = f"{PREFIX}{section.upper()}_" if section else PREFIX
    default = type(values)()
    return {
        prefix + name.upper(): str(getattr(values, name))
        for name in values.__struct_fields__
        if getattr(values, name) != getattr(default, name)
    }


def _from_toml(raw: dict[str, _Given], sections: Sections, path: Path) -> None:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    for key, value in document.items():
        if isinstance(value, dict) and key in sections:
            unknown = set(value) - set(sections[key].__struct_fields__)
            if unknown:
                raise SettingsError(f"{path}: unknown setting {key}.{min(unknown)}")
            raw[key].update({field: (each, f"{path}: {key}.{field}") for field, each in value.items()})
        elif key in sections[""].__struct_fields__:
            raw[""][key] = (value, f"{path}: {key}")
        else:
            raise SettingsError(f"{path}: unknown setting {key}")


def _from_environ(raw: dict[str, _Given], sections: Sections, environ: Mapping[str, str]) -> None:
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        section, field = _find(name.removeprefix(PREFIX).lower(), sections)
        if field is None:
            raise SettingsError(f"environment: unknown setting {name}")
        raw[section][field] = (environ[name], f"environment: {name}")


def _find(key: str, sections: Sections) -> tuple[str, str | None]:
    if key in sections[""].__struct_fields__:
        return "", key
    for name, kind in sections.items():
        if name and key.startswith(name + "_") and key.removeprefix(name + "_") in kind.__struct_fields__:
            return name, key.removeprefix(name + "_")
    return "", None


def _convert(kind: type[msgspec.Struct], given: _Given) -> Any:
    """One section; each value alone first, so that the one that does not fit is named with where it came from."""
    for field, (value, where) in given.items():
        why = f"it must be {wording.allowed(kind, field)}"
        try:
            made = getattr(msgspec.convert({field: value}, kind, strict=False), field)
            fits = not isinstance(made, float) or math.isfinite(made)
        except msgspec.ValidationError as error:
            fits = False
            if isinstance(error.__cause__, ValueError):  # a rule of the section's own, which says it better
                why = str(error.__cause__)
        if not fits:
            raise SettingsError(f"{where} is {_shown(value)}; {why}")
    return msgspec.convert({field: value for field, (value, _) in given.items()}, kind, strict=False)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'
