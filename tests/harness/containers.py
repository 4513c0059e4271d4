"""Containers without a container engine: the same commands and settings as local processes.

What differs is what an engine would do: each container has a loopback address instead of a network of its own, folders
instead of volumes, and names of hosts are addresses.
"""

import http.client
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.deployment import COMPOSE, Container
from harness.waiting import until
from jetmem.adapters.nats_server import find_binary
from jetmem.console.temporary import model_cache

#: A start of the model on a machine that never had it takes a minute, and more when it is busy.
READY_S: Final = 240.0
_BIN: Final = Path(sys.executable).parent
#: Others run tests on this machine too: a part of 127/8 of our own.
_BLOCK: Final = f"127.{random.SystemRandom().randrange(1, 255)}.{random.SystemRandom().randrange(255)}"
_NUMBERS: Final = itertools.count(1)
#: What the image holds outside volumes.
MODELS: Final = "/var/cache/jetmem"
DATA: Final = "/var/lib/jetmem"


class Host:
    """Where containers run: folders for volumes, addresses for names."""

    def __init__(self, root: Path, names: Mapping[str, str]) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.names = dict(names)
        self.running: dict[str, Process] = {}

    def volume(self, name: str) -> Path:
        """The folder that stands for a volume; what a bind mount names is that file or folder itself."""
        if Path(name).is_absolute() and Path(name).exists():
            return Path(name)
        if "/" in name:
            return (COMPOSE / Path(name).name if name.startswith("/") else COMPOSE / name).resolve()
        folder = self.root / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def local(self, container: Container, text: str, address: str) -> str:
        """One argument or value as it is here: paths of volumes, names of hosts, the address listened on."""
        if text == "0.0.0.0":
            return address
        for path in sorted(container.mounts, key=len, reverse=True):
            if text == path or text.startswith(path + "/"):
                return str(self.volume(container.mounts[path])) + text.removeprefix(path).replace("/.", "/.")
        if text == DATA:
            return f"/dev/null{DATA}"  # no volume: the root cannot be written, nor can this
        if text.startswith(MODELS):
            return str(model_cache()) + text.removeprefix(MODELS)
        for name, at in self.names.items():
            text = re.sub(rf"(?<=//){re.escape(name)}(?=:)", at, text)
        return text

    def command(self, container: Container, argv: tuple[str, ...], address: str) -> list[str]:
        program = shutil.which(argv[0], path=f"{_BIN}{os.pathsep}{os.defpath}")
        assert program, argv[0]
        return [program, *(self.local(container, each, address) for each in argv[1:])]

    def environ(self, container: Container, address: str) -> dict[str, str]:
        """Nothing of ours but where programs are: what a container would not have, a process must not need."""
        given = {key: self.local(container, value, address) for key, value in container.environ.items()}
        return {**given, "PATH": f"{_BIN}{os.pathsep}{os.defpath}", "HOME": str(self.volume("home"))}

    def run(self, container: Container) -> str:
        """Run a container to its end; what it said."""
        return self.execute(container, container.argv, "127.0.0.1")

    def execute(self, container: Container, argv: tuple[str, ...], address: str) -> str:
        """Run a command in a container; what it said."""
        done = subprocess.run(
            self.command(container, argv, address),
            env=self.environ(container, address),
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{container.name}: {argv} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def start(self, container: Container) -> "Process":
        """Start a container; it ends with this host."""
        process = Process(self, container)
        self.running[container.name] = process
        return process

    def stop(self) -> dict[str, int]:
        """SIGTERM to all, as an engine does; their exit codes."""
        for process in self.running.values():
            process.popen.terminate()
        codes = {name: process.popen.wait(process.container.grace_s) for name, process in self.running.items()}
        self.running.clear()
        return codes

    def kill(self) -> None:
        for process in self.running.values():
            process.popen.kill()
            process.popen.wait()


class Process:
    """A container that runs."""

    def __init__(self, host: Host, container: Container) -> None:
        self.container = container
        self.address = f"{_BLOCK}.{next(_NUMBERS)}"
        self.log = host.root / f"{container.name}.log"
        with self.log.open("wb") as out:
            self.popen = subprocess.Popen(
                host.command(container, container.argv, self.address),
                env=host.environ(container, self.address),
                cwd=host.root,
                stdout=out,
                stderr=out,
            )

    def get(self, path: str) -> tuple[int, str]:
        """What it answers on its port; 0 while it does not listen."""
        connection = http.client.HTTPConnection(
            self.address, int(self.container.environ["JETMEM_HTTP_PORT"]), timeout=5
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether every path that a probe or a scraper asks is answered well."""
        ended = self.popen.poll()
        assert ended is None, f"{self.container.name} ended with {ended}: {self.log.read_text()[-3000:]}"
        return all(self.get(path)[0] == 200 for path in self.container.paths)


@contextmanager
def brokers(root: Path, conf: str, names: tuple[str, ...], users: str = "") -> Iterator[dict[str, str]]:
    """Start a nats-server for each name with a configuration of compose/; gives their addresses."""
    at = {name: f"{_BLOCK}.{next(_NUMBERS)}" for name in names}
    started = []
    try:
        for name, address in at.items():
            folder = root / name
            shutil.copytree(COMPOSE / "nats.d", folder / "nats.d")
            if users:
                (folder / "nats.d/users.conf").write_text(users, encoding="utf-8")
            for file in ("nats.conf", "nats-cluster.conf"):
                text = (COMPOSE / file).read_text(encoding="utf-8")
                text = text.replace("0.0.0.0", address).replace('"/data"', f'"{folder / "data"}"')
                for other, where in at.items():
                    text = text.replace(f"//{other}:", f"//{where}:")
                (folder / file).write_text(text, encoding="utf-8")
            with (folder / "log").open("wb") as log:
                command = [str(find_binary()), "--config", str(folder / conf)]
                started.append(subprocess.Popen(command, env={"NATS_NAME": name}, stdout=log, stderr=log))
        for name, address in at.items():
            until(lambda address=address: _healthy(address), f"broker {name} is healthy", deadline_s=READY_S)
        yield at
    finally:
        for process in started:
            process.kill()
            process.wait()


def _healthy(address: str) -> bool:
    """As the health check of compose and the readiness probe of the chart's values ask it."""
    connection = http.client.HTTPConnection(address, 8222, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
