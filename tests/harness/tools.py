"""Programs of Debian that a test needs: the one that is there, else installed with apt; else the test fails."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

#: Others of the machine may be installing something.
_LOCK_WAIT: Final = "DPkg::Lock::Timeout=300"
#: … and for lists of packages apt does not wait: tests that run side by side install one after another.
_LOCK: Final = Path(tempfile.gettempdir()) / "jetmem-test-apt.lock"
_PACKAGES: Final = {
    "kubectl": "kubernetes-client",
    "docker-compose": "docker-compose",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}


@cache
def tool(name: str) -> str:
    """Path of a program; installs its package if it is missing and this process may."""
    with _LOCK.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return shutil.which(name) or _installed(name)


def _installed(name: str) -> str:
    package = _PACKAGES[name]
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise AssertionError(f"{name} is needed and cannot be installed here: apt-get install {package}")
    for arguments in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", package]):
        done = subprocess.run([apt, "-o", _LOCK_WAIT, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{name} is needed, and apt-get {arguments[0]} failed: {done.stderr[-2000:]}")
    found = shutil.which(name)
    assert found, f"{package} is installed and has no {name}"
    return found
