"""`docker`, `kubectl` and `git` as far as README.md's steps of an upgrade use them, without containers.

`python engine.py docker compose … up --detach`: services and pods are processes (`harness.containers`) that stay when
this program ends, volumes are folders, and what was checked out is what `jetmem` is. `ENGINE` names the folder of all
this; what is asked for otherwise than below ends with code 64.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from harness import deployment
from harness.containers import MODELS, READY_S, Host
from harness.deployment import Container, composed, kustomized, pods
from harness.tools import tool
from harness.waiting import until
from jetmem.console.temporary import model_cache

NEXT: Final = Path(__file__).resolve().with_name("next_version.py")
OLD: Final = "v0.1.0"
#: What compose calls volumes of a file in a folder of this name.
_PROJECT: Final = "compose_"


class Engine(Host):
    """A host that remembers what runs."""

    def __init__(self, root: Path) -> None:
        self.file = root / "engine.json"
        self.state: dict[str, Any] = json.loads(self.file.read_text())
        super().__init__(root / "host", self.state["names"])

    def save(self) -> None:
        self.file.write_text(json.dumps(self.state))

    def command(self, container: Container, argv: tuple[str, ...], address: str) -> list[str]:
        """Of the version that is checked out."""
        made = super().command(container, argv, address)
        if argv[0] == "jetmem" and self.state["version"] != OLD:
            return [sys.executable, "-P", str(NEXT), *made[1:]]
        return made

    def up(self, containers: list[Container]) -> None:
        """Start what does not run, and anew what runs in another version; all are ready then."""
        started = []
        for each in containers:
            now = self.state["running"].get(each.name)
            if now and now["version"] != self.state["version"]:
                self.down([each.name])
            elif now:
                continue
            if MODELS in each.mounts and not (self.volume(each.mounts[MODELS]) / "filled").exists():
                shutil.copytree(model_cache(), self.volume(each.mounts[MODELS]), dirs_exist_ok=True)
                (self.volume(each.mounts[MODELS]) / "filled").touch()
            process = self.start(each)
            self.state["running"][each.name] = {"pid": process.popen.pid, "version": self.state["version"]}
            self.save()
            started.append(process)
        for process in started:
            until(process.ready, f"{process.container.name} is ready, log {process.log}", deadline_s=READY_S)

    def down(self, names: list[str]) -> None:
        for name in names:
            gone = self.state["running"].pop(name, None)
            if gone:
                os.kill(gone["pid"], signal.SIGTERM)
                until(lambda pid=gone["pid"]: not _alive(pid), f"{name} has ended")
        self.save()


def _alive(pid: int) -> bool:
    """A process that ended and that nobody waited for has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def docker(engine: Engine, argv: list[str]) -> None:
    line = " ".join(argv)
    compose = {name: each for name, each in composed("core").items() if deployment.is_ours(each)}
    containers = {name: deployment.compose_container(name, each) for name, each in compose.items()}
    if argv[0] == "run":
        return _run(engine, argv[1:], set(containers))
    if argv[:4] == ["compose", "-f", "compose/compose.yaml", "exec"]:
        print(engine.execute(containers[argv[4]], tuple(argv[5:]), "127.0.0.1"), end="")
        return None
    prefix = "compose -f compose/compose.yaml --profile core "
    assert line.startswith(prefix), line
    verb, *rest = line.removeprefix(prefix).split()
    if verb == "stop":
        engine.down(rest)
    elif verb == "run":
        assert rest[:2] == ["--rm", "--no-deps"], line
        each = containers[rest[2]]
        entry = deployment.image()[0]
        print(engine.execute(each, (*entry, *rest[3:]), "127.0.0.1"), end="")
    elif verb == "up" and set(rest) <= {"--build", "--detach"}:
        engine.up(list(containers.values()))
    else:
        assert (verb, rest) == ("build", []), line
    return None


def _run(engine: Engine, argv: list[str], volumes: set[str]) -> None:
    """`docker run`: another program over volumes."""
    assert argv[:3] == ["--rm", "--user", "0"] and argv[3] == "--entrypoint", argv
    program, rest, at = argv[4], argv[5:], {}
    while rest[0] == "-v":
        source, target = rest[1].split(":")[:2]
        name = source.removeprefix(_PROJECT)
        assert source.startswith("/") or (source.startswith(_PROJECT) and name in volumes), source
        at[target] = source if source.startswith("/") else str(engine.volume(name))
        Path(at[target]).mkdir(parents=True, exist_ok=True)
        rest = rest[2:]
    image, *arguments = rest
    assert image == compose_image(), image
    for target, folder in at.items():
        arguments = [re.sub(rf"(?<![\w/]){target}(?![\w])", folder, each) for each in arguments]
    subprocess.run([program, *arguments], check=True)


def compose_image() -> str:
    return str(composed("core")["persist"]["image"])


def kubectl(engine: Engine, argv: list[str]) -> None:
    line = " ".join(argv).removeprefix("-n jetmem ")
    if argv[0] == "kustomize":
        subprocess.run([tool("kubectl"), *argv], cwd=deployment.ROOT, check=True)
    elif line.startswith("scale "):
        names = re.findall(r"statefulset/(\w+)", line)
        assert line.endswith(" --replicas 0") and len(names) == 4, line
        engine.down([each for each in engine.state["running"] if each.rpartition("-")[0] in names])
    elif line == "apply -f -":
        for job in yaml.safe_load_all(sys.stdin):
            _job(engine, job)
    elif line == "apply -k k8s/overlays/cluster":
        engine.up(_pods(engine))
    elif line.startswith("wait --for=condition=complete "):
        assert line.endswith("--selector app.kubernetes.io/component=migration") and engine.state["jobs"], line
    else:
        assert line.startswith(("wait --for=delete ", "delete job --selector app.kubernetes.io/component=migr")), line


def _job(engine: Engine, job: dict[str, Any]) -> None:
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "migration"
    pod = job["spec"]["template"]["spec"]
    (container,) = deployment.pod_containers(pod, ())
    claims = {v["name"]: v.get("persistentVolumeClaim", {}).get("claimName", v["name"]) for v in pod["volumes"]}
    mounts = {at: claims[name] for at, name in container.mounts.items()}
    name = job["metadata"]["name"]
    said = engine.run(dataclasses.replace(container, name=name, mounts=mounts))
    engine.state["jobs"][name] = said
    engine.save()


def _pods(engine: Engine) -> list[Container]:
    """persist as so many pods, and query: of the overlay that needs no users."""
    documents = kustomized("overlays/single")
    made = []
    for stage, count in (("persist", engine.state["shards"]), ("query", 1)):
        container = deployment.pod_containers(pods(documents)[stage], documents)[-1]
        for ordinal in range(count):
            name = f"{stage}-{ordinal}"
            told = {"JETMEM_SHARD": str(ordinal), "JETMEM_SHARDS": str(count)} if stage == "persist" else {}
            mounts = {at: f"{volume}-{name}" for at, volume in container.mounts.items()}
            environ = container.environ | told
            made.append(dataclasses.replace(container, name=name, environ=environ, mounts=mounts))
    return made


def git(engine: Engine, argv: list[str]) -> None:
    assert argv[0] == "checkout", argv
    engine.state["version"] = argv[1]
    engine.save()


def main() -> None:
    root = os.environ["ENGINE"]  # where programs of these names are that call us: others are meant from here on
    os.environ["PATH"] = os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if each != root)
    programs = {"docker": docker, "kubectl": kubectl, "git": git}
    try:
        programs[sys.argv[1]](Engine(Path(root)), sys.argv[2:])
    except AssertionError as error:
        print(f"{sys.argv[1:]}: {error}", file=sys.stderr)
        sys.exit(64)


if __name__ == "__main__":
    main()
