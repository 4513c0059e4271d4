"""How the code looks, as far as a machine can tell: sizes, names, literals, dead modules, what may be read where."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from jetmem import flow

ROOT = Path(__file__).parents[2]
SOURCES = ("services", "schemas")
FUNCTION_LINES_MAX = 50
MODULE_LINES_MAX = 400
BANNED_NAMES = {"utils", "helpers", "common", "manager"}
STAGE_FILES = {"__init__.py", "core.py", "handler.py", "ports.py", "settings.py", "app.py"}

SUBJECT = re.compile(r"(?<![\w.])(mem\.|memsvc\b|memrec\b|memjob\b|memdead\b|memp\.)")
SERVER_SUBJECT = re.compile(r"\$(JS|SRV|SYS|KV|O)\b")
METRIC = re.compile(r"jetmem_(?!schemas\b)[a-z]+(_[a-z]+)*")
SUBJECTS_MODULE = "schemas/jetmem_schemas/subjects.py"

#: Who may look at the environment: where settings are made, and who prepares a child's or a library's.
ENVIRONMENT_READERS = {
    "services/jetmem/cli.py": "the command line",
    "services/jetmem/console/": "the command line",
    "services/jetmem/runtime/settings.py": "settings",
    "services/jetmem/adapters/encoder_export.py": "the environment of a child process",
    "services/jetmem/adapters/aside.py": "the environment of a child process",
    "services/jetmem/adapters/encoder_onnx.py": "what a library reads",
    "services/jetmem/adapters/encoder_torch.py": "what a library reads",
    "services/jetmem/adapters/tokens.py": "what a library reads",
    "services/jetmem/evaluation/": "the environment of child processes, and the command line",
    "tests/": "tests",
}
#: Commands of their own, which speak on standard output.
PRINTERS = ("services/jetmem/evaluation/",)
#: They read what others count; of the dashboards tests/integration/test_watch.py compares each name.
METRIC_READERS = (*PRINTERS, "services/jetmem/docs/dashboards.py")
#: Started by name, not imported: `python -m`, or by the user who tests with our fakes.
ENTRY_POINTS = ("jetmem.__main__", "jetmem.cli", "jetmem.docs.__main__", "jetmem.client")
#: The one place of the tests that waits.
WAITING = "tests/harness/waiting.py"
SLEEPS = ("time.sleep", "asyncio.sleep", "anyio.sleep")

LOOKS_AWAY = re.compile(r"#\s*type:\s*ignore")
REASONED = re.compile(r"#\s*type:\s*ignore\[[\w, -]+\]\s+#\s*\w")

MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|home|root|Users|mnt|opt)/\w")
REGISTRY_HOSTS = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs|npmjs\.com|proxy\.golang|crates\.io|download\.pytorch|conda\.anaconda"
)
TEXT_FILES = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".jsonl", ".txt", ".lock", ".cfg", ".sh", ""}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of ours, by path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for folder in (*SOURCES, "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def sources() -> Iterator[tuple[str, ast.Module]]:
    return ((path, tree) for path, tree in modules().items() if path.startswith(SOURCES))


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of the string nodes that are documentation: of modules, classes, functions, and of what stands above them."""
    found: set[int] = set()
    for node in ast.walk(tree):
        for inside in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if isinstance(inside, ast.Expr) and isinstance(inside.value, ast.Constant):
                found.add(id(inside.value))
    return found


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is not documentation; of f-strings, their fixed parts."""
    told = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.lineno, node.value


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(path: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without blanks, comments and its docstring."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    told: set[int] = set()
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        told = set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    numbers = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    return sum(
        1 for n in numbers if n not in told and lines[n - 1].strip() and not lines[n - 1].strip().startswith("#")
    )


def calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything called."""
    return ((n.lineno, ast.unparse(n.func)) for n in ast.walk(tree) if isinstance(n, ast.Call))


def dotted(path: str) -> str:
    """The import name of a module's path."""
    name = path.split("/", 1)[1].removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def allowed(path: str, where: dict[str, str]) -> bool:
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in where)


def test_functions_are_short() -> None:
    long = [
        f"{path}:{f.lineno} {f.name}: {lines}"
        for path, tree in modules().items()
        for f in functions(tree)
        if (lines := code_lines(path, f)) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_modules_are_short() -> None:
    limits = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path, _ in sources()}
    assert {path: lines for path, lines in limits.items() if lines > MODULE_LINES_MAX} == {}


def test_no_module_is_a_drawer() -> None:
    parts = {path: {*Path(path).parent.parts, Path(path).stem} & BANNED_NAMES for path in modules()}
    assert {path: found for path, found in parts.items() if found} == {}


def test_no_print_and_no_assert() -> None:
    """`invariant` survives `-O`; logs and the console speak for the services."""
    found = [f"{path}:{n.lineno}" for path, tree in sources() for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    found += [
        f"{path}:{line} {name}"
        for path, tree in sources()
        for line, name in calls(tree)
        if name in ("print", "breakpoint", "pprint.pprint") and not path.startswith(PRINTERS)
    ]
    assert found == []


def test_subjects_are_built_in_one_place() -> None:
    found = [
        f"{path}:{line} {text!r}"
        for path, tree in sources()
        if path != SUBJECTS_MODULE
        for line, text in strings(tree)
        if SUBJECT.search(text)
    ]
    assert found == []


def test_what_is_searched_for_is_found_where_it_belongs() -> None:
    """That nothing is found elsewhere means something only if the search finds what is there."""
    here = [text for _, text in strings(modules()[SUBJECTS_MODULE])]
    assert sum(1 for text in here if SUBJECT.search(text)) > 10
    assert any(SERVER_SUBJECT.search(text) for text in here)
    metrics = [text for _, text in strings(modules()["services/jetmem/runtime/metrics.py"])]
    assert sum(1 for text in metrics if METRIC.fullmatch(text)) > 15
    planted = ast.parse(
        '"""mem.x"""\ndef f(a):\n    """memsvc.x"""\n    return f"mem.{a}.query", "memory.x", "a.mem.b"'
    )
    assert [text for _, text in strings(planted) if SUBJECT.search(text)] == ["mem."]
    assert [name for _, name in calls(ast.parse("import time\ntime.sleep(1)"))] == ["time.sleep"]
    assert imported(ast.parse("def f():\n    from a.b import c")) == {"a.b", "a.b.c"}


def test_the_servers_own_subjects_are_named_in_adapters_only() -> None:
    found = [
        f"{path}:{line} {text!r}"
        for path, tree in sources()
        if path != SUBJECTS_MODULE and not path.startswith("services/jetmem/adapters/")
        for line, text in strings(tree)
        if SERVER_SUBJECT.search(text)
    ]
    assert found == []


def test_metrics_are_listed_in_one_place() -> None:
    home = "services/jetmem/runtime/metrics.py"
    found = [
        f"{path}:{line} {text}"
        for path, tree in sources()
        if path != home and not path.startswith(METRIC_READERS)
        for line, text in strings(tree)
        if METRIC.fullmatch(text)
    ]
    makers = [
        f"{path}:{line} {name}"
        for path, tree in sources()
        if path != home
        for line, name in calls(tree)
        if name in ("Counter", "Gauge", "Histogram", "Summary") and "prometheus_client" in imported(tree)
    ]
    assert found + makers == []


def test_the_environment_is_read_where_settings_are_made() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        if not allowed(path, ENVIRONMENT_READERS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.putenv")
    ]
    found += [
        f"{path}: from os import environ"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "os"
        and {a.name for a in node.names} & {"environ", "getenv"}
    ]
    assert found == []


def imported(tree: ast.Module) -> set[str]:
    """Every module that one imports, wherever in it; of `from a import b` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_module_is_dead() -> None:
    """Each is imported by another, is built by the flow, or is started by a name that somebody writes."""
    known = {dotted(path): path for path, _ in sources()}
    alive = {*ENTRY_POINTS, *(f"jetmem.{s.name}.{part}" for s in flow.STAGES for part in ("app", "settings"))}
    for path, tree in modules().items():
        if path.startswith("tests/") and not path.startswith("tests/harness/"):
            alive |= {name for name in imported(tree) if name.startswith("jetmem.testing")}
            continue
        alive |= imported(tree) - {dotted(path)}
        alive |= {text for _, text in strings(tree)} & set(known)
    named = (ROOT / "Makefile").read_text(encoding="utf-8") + (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    alive |= {name for name in known if re.search(rf"{re.escape(name)}\b(?!\.)", named)}
    packages = {name for name, path in known.items() if path.endswith("__init__.py")}
    assert sorted(set(known) - alive - packages) == []


def test_stage_folders_hold_the_same_files() -> None:
    for stage in flow.STAGES:
        folder = ROOT / "services/jetmem" / stage.name
        missing = STAGE_FILES - {path.name for path in folder.glob("*.py")}
        assert not missing, f"{stage.name} lacks {sorted(missing)}"
        contract = ast.get_docstring(modules()[f"services/jetmem/{stage.name}/__init__.py"]) or ""
        assert contract.startswith(f"{stage.name}: ")
        for word in ("Reads:", "Emits:", "Store:", "Ack point:", "Safe to kill:"):
            assert word in contract, f"{stage.name}'s contract lacks {word}"


def test_stages_import_downwards_only() -> None:
    """As the contracts in pyproject.toml, for every stage of the flow, also one that is not listed there."""
    above = ("flow", "adapters", "runtime", "domain", "tasks")
    for stage in flow.STAGES:
        fine = tuple(f"jetmem.{part}" for part in (stage.name, *above))
        for path, tree in sources():
            if path.startswith(f"services/jetmem/{stage.name}/"):
                ours = {name for name in imported(tree) if name.startswith("jetmem.")}
                assert {name for name in ours if not name.startswith(fine)} == set(), path


def test_folders_with_an_app_are_stages() -> None:
    found = {path.split("/")[2] for path in modules() if re.fullmatch(r"services/jetmem/\w+/app\.py", path)}
    assert found == set(flow.NAMES)


def test_cores_are_pure() -> None:
    """`core.py` and `domain/` decide: no await, no clock, no I/O."""
    for path, tree in sources():
        if not (path.endswith("/core.py") or "/domain/" in path):
            continue
        waits = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef | ast.Await)]
        assert waits == [], path
        banned = {"time", "os", "asyncio", "threading", "socket", "nats", "subprocess"} & imported(tree)
        assert banned == set(), f"{path} imports {banned}"
        assert not {name for _, name in calls(tree) if name == "open"}, path


def test_tests_wait_for_conditions() -> None:
    found = [
        f"{path}:{line} {name}"
        for path, tree in modules().items()
        if path.startswith("tests/") and path != WAITING
        for line, name in sleeps(tree)
    ]
    assert found == []


def sleeps(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Where time is let pass; `sleep(0)` of a loop only lets others have their turn."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in SLEEPS:
            given = node.args[0] if node.args else None
            if not (name != "time.sleep" and isinstance(given, ast.Constant) and given.value == 0):
                yield node.lineno, ast.unparse(node)


def test_what_waits_is_found() -> None:
    code = "time.sleep(0); asyncio.sleep(0.05); anyio.sleep(x); asyncio.sleep(0); asyncio.sleep; other.sleep(1)"
    assert [what for _, what in sleeps(ast.parse(code))] == ["time.sleep(0)", "asyncio.sleep(0.05)", "anyio.sleep(x)"]


def test_who_tells_the_type_checker_to_look_away_says_why() -> None:
    found = [
        f"{path}:{number} {line.strip()}"
        for path in modules()
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if LOOKS_AWAY.search(line) and not REASONED.search(line)
    ]
    assert found == []
    bare = "x = 1  # type" + ": ignore[misc]"
    assert LOOKS_AWAY.search(bare) and not REASONED.search(bare) and REASONED.search(bare + "  # it is untyped")


def files() -> list[Path]:
    """Files that a commit would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / line for line in listed.splitlines() if Path(line).suffix in TEXT_FILES and (ROOT / line).is_file()]


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line):
                found.append(f"{name}:{number} {line.strip()[:100]}")
    assert found == []
