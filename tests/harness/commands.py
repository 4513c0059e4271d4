"""`jetmem` as a process of its own, against the broker of a test."""

import asyncio
import sys


async def spawned(line, *arguments):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "jetmem", *arguments, "--server", line.broker.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def jetmem(line, *arguments, code=0):
    """What it prints, on standard error if it is to fail."""
    process = await spawned(line, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == code, err.decode()
    return out.decode().strip() if not code else err.decode().strip()
