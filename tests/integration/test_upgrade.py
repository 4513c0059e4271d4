"""README.md, Upgrading: its steps as they stand there, from this version to the next one and back.

The next version is a stand-in (`harness/next_version.py`) whose stores have another format. After each step everything
acknowledged is readable, once, and what was forgotten is not.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.commands import PATIENT
from harness.containers import brokers
from harness.ports import free_port
from harness.shards import tenants_of
from harness.waiting import until_async
from jetmem import client, flow
from jetmem.client import ClientError, Outgoing
from jetmem.console.temporary import model_cache

ROOT = Path(__file__).parents[2]
NEXT = ROOT / "tests/harness/next_version.py"
#: So long a start may take on a busy machine.
PATIENT_S = 600
WAIT_MS = 60_000
README = (ROOT / "README.md").read_text("utf-8")
#: The first steps on a server: the image, then what is run.
(FIRST,) = re.findall(r"^### On a server\n\n```sh\n(docker build (?:.*\n)*?)```", README, re.MULTILINE)
CHAPTER = re.search(r"^### Upgrading\n.*?(?=^## )", README, re.MULTILINE | re.DOTALL)


def steps(where: str, *, back: bool = False) -> str:
    """The commands of README.md for a laptop, a server or a cluster."""
    assert CHAPTER
    there, home = CHAPTER[0].split("#### And back\n")
    intro = rf"^On a {where}(?:.|\n(?!\n))*?:\n\n"
    (found,) = re.findall(rf"{intro}```sh\n((?:.*\n)*?)```", home if back else there, re.MULTILINE)
    return found


class Agents:
    """Tenants that say, forget and read over whichever version runs."""

    def __init__(self, url: str, *tenants: str) -> None:
        self.url = url
        self.said: dict[str, list[str]] = {tenant: [] for tenant in tenants or ("acme",)}

    def say(self, *ids: str) -> None:
        """Acknowledged when this returns, whether anybody reads it or not."""

        async def main(tenant: str) -> None:
            async with client.connect(self.url, tenant=tenant, agent="alice") as memory:
                events = [Outgoing(event={"id": i, "text": f"zanzibar has number {i}"}, session="s1") for i in ids]
                assert (await memory.publish_many(events)).count == len(ids)

        for tenant in self.said:
            asyncio.run(main(tenant))
            self.said[tenant] += ids

    def forget(self, id_: str) -> None:
        async def main(tenant: str) -> None:
            async with client.connect(self.url, tenant=tenant, agent="alice") as memory:
                assert (await memory.forget(ids=[id_])).state in ("applied", "purged")

        for tenant, said in self.said.items():
            asyncio.run(main(tenant))
            said.remove(id_)

    def read(self, *, found_by: str = "text") -> None:
        """Exactly what was acknowledged and not forgotten, each once, in order; and all of it is found."""

        async def main(tenant: str) -> None:
            async with client.connect(self.url, tenant=tenant, agent="alice") as memory:
                wanted = self.said[tenant]

                async def there() -> bool:
                    try:
                        events = memory.timeline_all(session="s1", order="asc", wait_ms=WAIT_MS)
                        return [event.id async for event in events] == wanted
                    except ClientError:  # a partition that is still being taken over
                        return False

                await until_async(there, f"{tenant} has {wanted}")
                hits: list[str] = []

                async def found() -> bool:
                    nonlocal hits
                    reply = await memory.search("zanzibar number", mode=found_by, limit=100)
                    hits = sorted(hit.id for hit in reply.hits)
                    return hits == sorted(wanted) and reply.mode == found_by and not reply.degraded

                if found_by:
                    await until_async(found, f"{tenant} finds {wanted} by {found_by}")

        for tenant in self.said:
            asyncio.run(main(tenant))


class Laptop:
    """A user's shell: `jetmem` is whatever `pip` installed last."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.version = root / "version"
        self.bin = root / "bin"
        self.bin.mkdir(parents=True)
        old, new = "-P -m jetmem", f"-P {NEXT}"
        self.version.write_text(old)
        self._program("pip", f'case "$*" in *--upgrade*) v="{new}";; *==0.1.0*) v="{old}";; *) exit 9;; esac; '
                             f'echo "$v" > {self.version}')  # fmt: skip
        given = f'case "$1" in up) set -- "$@" --port {self.port};; esac'
        self._program("jetmem", f'{given}; exec {sys.executable} $(cat {self.version}) "$@"')

    def _program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def run(self, commands: str, *, code: int = 0) -> str:
        """What it says, both streams."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("JETMEM_", "XDG_"))}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        environ |= {**PATIENT, "HOME": str(self.root), "PATH": path, "JETMEM_EMBED_CACHE": str(model_cache())}
        with (self.root / "said").open("w+") as said:  # a file: what is started in the background keeps it open
            done = subprocess.run(
                ["bash", "-eu", "-o", "pipefail", "-c", commands],
                env=environ, cwd=self.root, stdout=said, stderr=said, timeout=PATIENT_S, check=False,
            )  # fmt: skip
            said.seek(0)
            text = said.read()
        assert done.returncode == code, text
        return text


@pytest.fixture
def laptop(tmp_path: Path):
    made = Laptop(tmp_path / "home")
    yield made
    made.run("jetmem down")


def test_on_a_laptop(laptop: Laptop) -> None:
    agents = Agents(f"nats://127.0.0.1:{laptop.port}")
    laptop.run("jetmem up --detach")
    agents.say(*(f"a{n}" for n in range(60)))
    agents.forget("a7")
    agents.read()
    until_migrate, rest = steps("laptop").split("jetmem migrate\n")
    laptop.run(until_migrate)
    refused = laptop.run("jetmem up --detach", code=2)
    assert "older than 3; copy it, then run `jetmem migrate` (README.md, Upgrading)" in refused
    died = laptop.run("NEXT_DIES_AFTER=41 jetmem migrate", code=9)
    assert died == ""
    assert "is half converted; copy it" in laptop.run("jetmem up --detach", code=2)
    said = laptop.run("jetmem migrate\n" + rest)
    assert re.findall(r"^(\w+): .*(converted|anew|this version's)", said, re.MULTILINE) == [
        ("persist", "converted"), ("index", "anew"), ("summarize", "this version's"), ("learn", "this version's"),
    ]  # fmt: skip
    agents.read()
    agents.say("b1", "b2", "b3")
    agents.forget("a8")
    agents.forget("b2")
    agents.read()
    laptop.run("jetmem down; pip install 'jetmem[server]==0.1.0'")
    assert "has format 3, newer than 2; use a newer jetmem, or put back the copy" in laptop.run(
        "jetmem up --detach", code=2
    )
    laptop.run(steps("laptop", back=True))
    agents.read()
    agents.say("c1")
    agents.read()
    agents.read(found_by="vector")


class Operator:
    """An operator's shell: docker, kubectl and git of `harness/engine.py`."""

    def __init__(self, root: Path, names: dict[str, str], shards: int = 1) -> None:
        self.root = root
        root.mkdir()
        self._file = root / "engine.json"
        state = {"names": names, "version": "v0.1.0", "running": {}, "jobs": {}, "shards": shards}
        self._file.write_text(json.dumps(state))
        for name in ("docker", "kubectl", "git"):
            path = root / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests/harness/engine.py"} {name} "$@"\n')
            path.chmod(0o755)

    def state(self, key: str) -> Any:
        return json.loads(self._file.read_text())[key]

    def run(self, commands: str) -> str:
        path = f"{self.root}{os.pathsep}{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "ENGINE": str(self.root), "PYTHONPATH": str(ROOT / "tests")}
        with (self.root / "said").open("w+") as said:
            done = subprocess.run(
                ["bash", "-eu", "-o", "pipefail", "-c", commands],
                env=environ, cwd=self.root, stdout=said, stderr=said, timeout=PATIENT_S, check=False,
            )  # fmt: skip
            said.seek(0)
            text = said.read()
        assert done.returncode == 0, text
        return text

    def end(self) -> None:
        for each in self.state("running").values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_on_a_server(tmp_path: Path) -> None:
    with brokers(tmp_path, "nats.conf", ("nats",)) as at:
        operator = Operator(tmp_path / "engine", {"nats": at["nats"]})
        agents = Agents(f"nats://{at['nats']}:4222", "zoo")
        try:
            said = operator.run(FIRST.split("\n", 1)[1])
            assert '"state":"accepted"' in said and '"stages":[' in said
            agents.say("a1", "a2", "a3")
            agents.forget("a1")
            agents.read()
            until_build, rest = steps("server").split("git checkout")
            operator.run(until_build)
            agents.say("a4")  # while nobody reads
            said = operator.run("git checkout" + rest)
            assert re.findall(r"^(\w+): .*(converted|anew)", said, re.MULTILINE) == [
                ("persist", "converted"),
                ("index", "anew"),
            ]
            agents.read()
            agents.say("b1")
            agents.forget("a2")
            agents.read()
            operator.run(steps("server", back=True))
            agents.read()
        finally:
            operator.end()


def test_on_a_cluster_each_shard_is_converted(tmp_path: Path) -> None:
    with brokers(tmp_path, "nats.conf", ("nats",)) as at:
        operator = Operator(tmp_path / "engine", {"nats.nats.svc.cluster.local": at["nats"]}, shards=2)
        agents = Agents(f"nats://{at['nats']}:4222", *tenants_of([0, 1]))
        claims = operator.root / "host/volumes"
        try:
            operator.run("kubectl apply -k k8s/overlays/cluster")
            agents.say("a1", "a2")
            agents.read(found_by="")
            until_git, rest = steps("cluster").split("git checkout")
            operator.run(until_git)
            shutil.copytree(claims, tmp_path / "snapshots")
            agents.say("a3")
            operator.run("git checkout" + rest.replace("for shard in 0;", "for shard in 0 1;"))
            jobs = operator.state("jobs")
            assert set(jobs) == {f"migrate-{s.name}-{shard}" for s in flow.STAGES if s.store for shard in (0, 1)}
            for shard in (0, 1):
                assert "was converted from format 2 to 3" in jobs[f"migrate-persist-{shard}"]
            agents.read(found_by="")
            agents.say("b1")
            agents.read(found_by="")
            operator.run(until_git + "git checkout v0.1.0")
            shutil.rmtree(claims)
            shutil.copytree(tmp_path / "snapshots", claims)
            operator.run("kubectl apply -k k8s/overlays/cluster")
            agents.read(found_by="")
        finally:
            operator.end()
