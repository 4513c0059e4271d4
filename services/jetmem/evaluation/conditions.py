"""What a figure was measured on: printed with every figure."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from typing import Any, Final

import msgspec
import nats
from nats.aio.client import Client as Nats

from jetmem.adapters.encoder_measure import cores, processor
from jetmem.adapters.nats_server import find_binary
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus

PACKAGES: Final = (
    "jetmem", "nats-py", "faststream", "rocksdict", "tantivy", "hnswlib", "onnxruntime", "torch", "uvloop",
)  # fmt: skip
_STATUS_S: Final = 5.0
_decode = msgspec.msgpack.Decoder(StageStatus).decode


def machine() -> dict[str, str]:
    """Processor, cores, memory, load and versions."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    said = subprocess.run([str(find_binary()), "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "processor": processor(),
        "cores": str(cores()),
        "memory": f"{pages:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "nats-server": said.rpartition(" v")[2].strip() or said.strip(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "load": load(),
    }


def load() -> str:
    """The machine's load now, over 1, 5 and 15 minutes: others on it make every figure worse."""
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _version(name: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return "-"


async def stage_counts(nc: Nats, stage: str) -> dict[str, Any]:
    """What a stage says of itself; `precision`, `texts_total` and the like."""
    reply = await nc.request(subjects.service_status(stage), msgspec.msgpack.encode({}), timeout=_STATUS_S)
    return dict(_decode(reply.data).counts)


async def encoder_of(url: str) -> dict[str, str]:
    """The encoder that the running service chose."""
    nc = await nats.connect(url, allow_reconnect=False)
    try:
        counts = await stage_counts(nc, "embed")
    finally:
        await nc.close()
    told = {name: str(counts.get(name, "")) for name in ("model", "precision", "threads", "why")}
    return {"encoder": f"{told['precision']} ({told['why']}), {told['threads']} threads", "model": told["model"]}
