"""Every container of compose and Kubernetes as a local process, same command, same settings: all become ready."""

import asyncio
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from harness import deployment
from harness.containers import MODELS, READY_S, Host, brokers
from harness.deployment import STREAMS, Container, composed, kustomized, of_kind, pods, stream_configuration
from harness.waiting import DEADLINE_S, until, until_async
from jetmem import flow
from jetmem.adapters import nats_work
from jetmem.adapters.nats_connect import api
from jetmem.client.keys import identity
from jetmem.console import configuration
from jetmem.console.temporary import model_cache
from jetmem.rights import OPERATOR
from jetmem.users import User, Users
from jetmem_schemas import subjects

#: As the manifests write the broker's address.
SERVICE = "nats.nats.svc.cluster.local"


def answers(url: str, **credentials: str) -> dict[str, Any]:
    """Publish an event and ask for it, as an agent does; the reply once words and meaning are there."""

    async def main() -> dict[str, Any]:
        nc = await nats.connect(url, **credentials)
        try:
            body = json.dumps({"text": "the build is green again"}).encode()
            ack = await nc.jetstream().publish(
                subjects.memory("acme", "event", "alice", "s1"), body, timeout=DEADLINE_S
            )
            question = {"query": "is the build broken?", "after": ack.seq, "wait_ms": 20_000}
            subject, payload = subjects.query("acme", "search"), json.dumps(question).encode()

            async def whole() -> dict[str, Any] | None:
                reply = dict(json.loads((await nc.request(subject, payload, timeout=READY_S)).data))
                return None if reply["degraded"] else reply

            return dict(await until_async(whole, "an answer of all arms"))
        finally:
            await nc.close()

    return asyncio.run(main())


@pytest.fixture(scope="module", autouse=True)
def image(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the Dockerfile runs last: the image carries the exported model."""
    steps = re.findall(r"^RUN (jetmem .+)$", (deployment.ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(steps) == {"jetmem prepare-model"}
    argv, environ = tuple(steps[0].split()), deployment.image()[1]
    Host(tmp_path_factory.mktemp("build"), {}).run(Container("build", argv, environ))


@contextmanager
def running(root: Path, names: dict[str, str], containers: list[Container]) -> Iterator[Host]:
    """Start all, in no order; they are ready when the block begins, and killed at its end."""
    host = Host(root, names)
    for container in containers:
        if MODELS in container.mounts:  # as an engine does: a new volume is filled from the image
            shutil.copytree(model_cache(), host.volume(container.mounts[MODELS]), dirs_exist_ok=True)
    try:
        processes = [host.start(container) for container in containers]
        for process in processes:
            until(process.ready, f"{process.container.name} is ready, log {process.log}", deadline_s=READY_S)
        yield host
    finally:
        host.kill()


def test_compose_on_one_broker(tmp_path: Path) -> None:
    services = {name: each for name, each in composed("core").items() if deployment.is_ours(each)}
    containers = [deployment.compose_container(name, each) for name, each in services.items()]
    with brokers(tmp_path, "nats.conf", ("nats",)) as at, running(tmp_path / "host", at, containers) as host:
        reply = answers(f"nats://{at['nats']}:4222")
        assert (len(reply["hits"]), reply["degraded"], reply["mode"]) == (1, [], "hybrid")
        for name, process in host.running.items():
            check = tuple(deployment.health_command(services[name]))
            assert host.execute(process.container, check, process.address) == "ok\n"
            assert process.get("/metrics")[1].startswith("# HELP jetmem_")
        assert host.stop() == dict.fromkeys(flow.NAMES, 0), "SIGTERM drains"


def test_compose_on_three_brokers(tmp_path: Path) -> None:
    services = {name: each for name, each in composed("cluster", "cluster.env").items() if deployment.is_ours(each)}
    containers = [deployment.compose_container(name, each) for name, each in services.items()]
    members = ("nats-a", "nats-b", "nats-c")
    with brokers(tmp_path, "nats-cluster.conf", members) as at:
        # each member answers to the alias
        names = {"nats": at["nats-b"]}
        with running(tmp_path / "host", names, containers) as host:
            reply = answers(f"nats://{at['nats-c']}:4222")
            assert (len(reply["hits"]), reply["degraded"]) == (1, [])
            assert host.stop() == dict.fromkeys(flow.NAMES, 0)


def test_compose_with_users(tmp_path: Path) -> None:
    """As README.md has it: users first, then the broker and the stages with both files."""
    users = Users(tmp_path / "compose")
    owner, _ = users.add("acme", "owner")
    containers = []
    for name, service in composed("core", "", "users.yaml").items():
        if deployment.is_ours(service):
            each = deployment.compose_container(name, service)
            key = {each.environ["JETMEM_CREDS"]: str(users.key_file(User("", service=name)))}
            containers.append(dataclasses.replace(each, mounts=each.mounts | key))
    with (
        brokers(tmp_path, "nats.conf", ("nats",), users=users.file.read_text(encoding="utf-8")) as at,
        running(tmp_path / "host", at, containers) as host,
    ):
        reply = answers(f"nats://{at['nats']}:4222", **identity(str(users.key_file(owner))).options())
        assert (len(reply["hits"]), reply["degraded"], reply["mode"]) == (1, [], "hybrid")
        assert "Violation" not in (tmp_path / "nats/log").read_text(encoding="utf-8")
        assert host.stop() == dict.fromkeys(flow.NAMES, 0)


def prepared(host_root: Path, names: dict[str, str], overlay: str, users: Users | None = None) -> list[Container]:
    """What runs in each pod, after what prepares it. Volumes of a pod are its own; its secret is its key."""
    documents = kustomized(overlay)
    host = Host(host_root, names)
    containers = []
    for name, pod in pods(documents).items():
        *before, main = [in_pod(name, each) for each in deployment.pod_containers(pod, documents)]
        for each in before:
            host.run(each)
        for volume in pod["volumes"]:
            if "secret" in volume:
                (item,) = volume["secret"]["items"]
                assert users is not None
                key = users.key_file(User("", service=item["key"].removesuffix(".nk")))
                shutil.copy(key, host.volume(f"{volume['name']}-{name}") / item["path"])
        containers.append(dataclasses.replace(main, name=name))
    return containers


def in_pod(name: str, container: Container) -> Container:
    """With the volumes of this pod."""
    return dataclasses.replace(container, mounts={at: f"{volume}-{name}" for at, volume in container.mounts.items()})


def test_kubernetes_on_one_node(tmp_path: Path) -> None:
    with brokers(tmp_path, "nats.conf", ("nats",)) as at:
        names = {SERVICE: at["nats"]}
        containers = prepared(tmp_path / "host", names, "overlays/single")
        with running(tmp_path / "host", names, containers) as host:
            reply = answers(f"nats://{at['nats']}:4222")
            assert (len(reply["hits"]), reply["degraded"]) == (1, [])
            assert host.stop() == dict.fromkeys(flow.NAMES, 0)
            documents = kustomized("migrate")
            for pod in pods(documents).values():
                (job,) = deployment.pod_containers(pod, documents)
                stage = job.argv[-1]
                assert stage in host.run(in_pod(stage, job))


def test_kubernetes_on_a_cluster(tmp_path: Path) -> None:
    """Users of their own; streams and consumer are made by others, from the very resources that NACK is given."""
    documents = kustomized("overlays/cluster")
    users = Users(tmp_path / "secrets")
    owner, _ = users.add("acme", "owner")
    root = identity(str(users.key_file(User("", service=OPERATOR)))).options()

    async def make(url: str) -> None:
        nc = await nats.connect(url, **root)
        for each in of_kind(documents, "Stream"):
            name = each["spec"]["name"]
            await api(nc, subjects.raw_stream_api("STREAM.CREATE", name), stream_configuration(each["spec"]), 15)
        body = {"stream_name": subjects.EMBED, "config": nats_work.configuration("embed")}
        await api(nc, subjects.raw_stream_api("CONSUMER.CREATE", f"{subjects.EMBED}.embed"), body)
        await nc.close()

    async def made(url: str) -> dict[str, list[str]]:
        nc = await nats.connect(url, **root)
        found = {s: (await api(nc, subjects.raw_stream_api("CONSUMER.NAMES", s)))["consumers"] or [] for s in STREAMS}
        await nc.close()
        return found

    members = ("nats-a", "nats-b", "nats-c")
    with brokers(tmp_path, "nats-cluster.conf", members, users=users.file.read_text(encoding="utf-8")) as at:
        url, names = f"nats://{at['nats-c']}:4222", {SERVICE: at["nats-a"]}
        asyncio.run(make(url))
        containers = prepared(tmp_path / "host", names, "overlays/cluster", users)
        with running(tmp_path / "host", names, containers) as host:
            reply = answers(url, **identity(str(users.key_file(owner))).options())
            assert (len(reply["hits"]), reply["degraded"]) == (1, [])
            refused = [path for path in tmp_path.glob("*/log") if "Violation" in path.read_text(encoding="utf-8")]
            assert refused == []
            assert asyncio.run(made(url))[subjects.EMBED] == ["embed"], "embed uses the one that the scaler looks at"
            assert host.stop() == dict.fromkeys(flow.NAMES, 0)


def test_with_a_gpu_the_same_runs() -> None:
    """What test_kubernetes_on_a_cluster ran is what the overlay `gpu` runs, but for embed, which needs the GPU."""
    plain, gpu = kustomized("overlays/cluster"), kustomized("overlays/gpu")
    for name, pod in pods(gpu).items():
        here, there = deployment.pod_containers(pod, gpu), deployment.pod_containers(pods(plain)[name], plain)
        added = set(here[-1].environ.items()) - set(there[-1].environ.items())
        here[-1] = dataclasses.replace(
            here[-1], environ={k: v for k, v in here[-1].environ.items() if (k, v) not in added}
        )
        assert here == there
        assert (dict(added).get("JETMEM_EMBED_DEVICE") == "cuda") == (name == "embed") == bool(added)
    embed = deployment.pod_containers(pods(gpu)["embed"], gpu)[-1]
    settings = configuration.load(None, embed.environ)["embed"]
    assert settings.device == "cuda", "and its settings are taken"
    limits = pods(gpu)["embed"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
