"""`jetmem` as a process of its own, against the broker of a test."""

import asyncio
import sys

from harness.waiting import DEADLINE_S

#: For pipelines whose answers must be whole: query then waits for others as long as a busy machine takes.
PATIENT = {"JETMEM_QUERY_ENCODE_TIMEOUT_S": "5", "JETMEM_QUERY_SERVICE_TIMEOUT_S": "6"}


async def spawned(line, *arguments):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "jetmem", *arguments, "--server", line.broker.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def jetmem(line, *arguments, code=0):
    """What it prints, on standard error if it is to fail."""
    process = await spawned(line, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == code, err.decode()
    return out.decode().strip() if not code else err.decode().strip()
