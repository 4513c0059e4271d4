"""What compose/, k8s/ and the Dockerfile say: rendered by the real tools, and each container as a command."""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from harness.tools import tool
from jetmem.docs import pages

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "compose"
K8S: Final = ROOT / "k8s"
OVERLAYS: Final = ("overlays/single", "overlays/cluster", "overlays/gpu")
#: Everything that kubectl is given.
RENDERED: Final = (*OVERLAYS, "migrate")
#: Every stream that the code makes, as its own documentation lists them.
STREAMS: Final = tuple(re.findall(r"^\| ([A-Z_]+) \|", pages.streams(), re.MULTILINE))
_NS: Final = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9}
WORKLOADS: Final = ("Deployment", "StatefulSet", "Job")


@dataclass(frozen=True)
class Container:
    """One container: what runs in it, and what it sees.

    Attributes:
        argv: Entry point and arguments.
        environ: Of the image and of the manifest together.
        mounts: Path in the container to the name of the volume.
        paths: Asked over HTTP by probes and scrapers.
        grace_s: From SIGTERM to SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    environ: dict[str, str]
    mounts: dict[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    grace_s: int = 0


@cache
def image() -> tuple[tuple[str, ...], dict[str, str]]:
    """Entry point and environment of the images of services (the Dockerfile's stage `runtime`)."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    mine = next(stage for stage in stages if stage.startswith("base AS runtime"))
    environ = {}
    for line in re.findall(r"^ENV (.+)$", mine, re.MULTILINE):
        environ |= dict(part.split("=", 1) for part in shlex.split(line))
    entry = re.search(r"^ENTRYPOINT (\[.+\])$", mine, re.MULTILINE)
    assert entry
    return tuple(json.loads(entry[1])), environ


@cache
def kustomized(folder: str) -> tuple[dict[str, Any], ...]:
    """The documents that `kubectl kustomize` makes of a folder below k8s/."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(K8S / folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@cache
def composed(profile: str, env_file: str = "", *files: str) -> dict[str, Any]:
    """The services of a profile, as `docker-compose config` understands compose.yaml and further files."""
    named = ["--env-file", str(COMPOSE / env_file)] if env_file else []
    given = [part for file in ("compose.yaml", *files) for part in ("-f", str(COMPOSE / file))]
    command = [tool("docker-compose"), *given, *named, "--profile", profile, "config"]
    # No proxy, no variables of the caller's: only what the files say.
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return {name: each for name, each in services.items() if profile in each.get("profiles", ())}


def is_ours(service: dict[str, Any]) -> bool:
    """Whether it runs an image of this repository."""
    return str(service["image"]).startswith("jetmem")


def compose_container(name: str, service: dict[str, Any]) -> Container:
    """A service of compose as a command."""
    entry, environ = image()
    mounts = {str(at).split(":")[1]: str(at).split(":")[0] for at in service.get("volumes", ())}
    test = service["healthcheck"]["test"]
    assert test[0] == "CMD"
    return Container(
        name=name,
        argv=(*entry, *service["command"]),
        environ=environ | {key: str(value) for key, value in service["environment"].items()},
        mounts=mounts,
        paths=("/healthz", "/metrics"),
        grace_s=int(str(service["stop_grace_period"]).removesuffix("s")),
    )


def health_command(service: dict[str, Any]) -> list[str]:
    """What compose runs in the container to see whether it is healthy."""
    return list(service["healthcheck"]["test"][1:])


def pods(documents: tuple[dict[str, Any], ...]) -> dict[str, dict[str, Any]]:
    """Pod specifications by the name of their workload."""
    found = {}
    for each in documents:
        if each["kind"] in WORKLOADS:
            found[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
    return found


def of_kind(documents: tuple[dict[str, Any], ...], kind: str) -> list[dict[str, Any]]:
    return [each for each in documents if each["kind"] == kind]


def pod_containers(pod: dict[str, Any], documents: tuple[dict[str, Any], ...]) -> list[Container]:
    """Containers of a pod in the order they run, those that prepare first; ordinal 0 where a pod has one."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(documents, "ConfigMap")}
    entry, base = image()
    made = []
    for each in [*pod.get("initContainers", ()), *pod["containers"]]:
        environ = dict(base)
        for source in each.get("envFrom", ()):
            environ |= maps[source["configMapRef"]["name"]]
        for variable in each.get("env", ()):
            environ[variable["name"]] = variable.get("value", "0")
            if "value" not in variable:
                path = variable["valueFrom"]["fieldRef"]["fieldPath"]
                assert path == "metadata.labels['apps.kubernetes.io/pod-index']"
        probes = [each[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in each]
        made.append(
            Container(
                name=each["name"],
                argv=(*each.get("command", entry), *each.get("args", ())),
                environ=environ,
                mounts={mount["mountPath"]: mount["name"] for mount in each["volumeMounts"]},
                paths=tuple(sorted({probe["httpGet"]["path"] for probe in probes})),
                grace_s=pod.get("terminationGracePeriodSeconds", 0),
            )
        )
    return made


def files() -> dict[str, str]:
    """Every text file of compose/ and k8s/, and the Dockerfile, by path from the root."""
    paths = [ROOT / "Dockerfile", *(path for top in (COMPOSE, K8S) for path in sorted(top.rglob("*")))]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in paths
        if path.is_file() and path.name != ".gitkeep"
    }


def stream_configuration(spec: dict[str, Any]) -> dict[str, Any]:
    """What NACK makes of a Stream, in the server's words."""
    plain = {"name": "name", "subjects": "subjects", "retention": "retention", "storage": "storage",
             "discard": "discard", "maxBytes": "max_bytes", "maxMsgSize": "max_msg_size", "replicas": "num_replicas",
             "maxMsgsPerSubject": "max_msgs_per_subject", "allowAtomicPublish": "allow_atomic",
             "allowDirect": "allow_direct", "allowRollup": "allow_rollup_hdrs", "denyDelete": "deny_delete",
             "denyPurge": "deny_purge"}  # fmt: skip
    made = {theirs: spec[ours] for ours, theirs in plain.items() if ours in spec}
    made |= {name: nanoseconds(spec[field]) for field, name in
             (("maxAge", "max_age"), ("duplicateWindow", "duplicate_window")) if field in spec}  # fmt: skip
    if "subjectTransform" in spec:
        made["subject_transform"] = {
            "src": spec["subjectTransform"]["source"],
            "dest": spec["subjectTransform"]["dest"],
        }
    return made


def nanoseconds(duration: str) -> int:
    found = re.fullmatch(r"(\d+)(ms|s|m)", duration)
    assert found, duration
    number, unit = found.groups()
    return int(number) * _NS[unit]
