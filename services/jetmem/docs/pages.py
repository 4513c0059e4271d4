"""Tables and pictures for people, in Markdown, from `flow.py`, schemas, settings, metrics and commands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from jetmem import flow
from jetmem.adapters.nats_streams import configuration
from jetmem.runtime import metrics
from jetmem.runtime.settings import PREFIX, Common
from jetmem_schemas import asking, errors, requests, subjects

_ATTRIBUTE: Final = re.compile(r"^(\w+): (.*)$")
_MIB: Final = 1024 * 1024


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def picture() -> str:
    """The flow, a line a stage: what it reads, what it owns, what it emits."""
    inputs = [stage.reads or "requests" for stage in flow.STAGES]
    names = [f"{stage.name} ({stage.store})" if stage.store else stage.name for stage in flow.STAGES]
    left, middle = max(map(len, inputs)), max(map(len, names))
    lines = [f"{'agents':{left}} ──publish──▶ {subjects.MEMORY}", f"{'agents':{left}} ◀──request/reply──▶ query", ""]
    for stage, read, name in zip(flow.STAGES, inputs, names, strict=True):
        emits = f" ──▶ {', '.join(stage.emits)}" if stage.emits else ""
        lines.append(f"{read:{left}} ──▶ {name:{middle}}{emits}".rstrip())
    return "```text\n" + "\n".join(lines) + "\n```"


def stages() -> str:
    """The stage table."""
    rows = [
        [f"`{s.name}`", s.reads or "requests", ", ".join(s.emits) or "–", s.store or "nothing", s.ack_point, s.does]
        for s in flow.STAGES
    ]
    return table(["stage", "reads", "emits", "owns", "done when", "what it does"], rows)


def streams() -> str:
    """The stream table, from the configurations that they are made with."""
    rows = []
    for name in (*subjects.STREAMS, subjects.TENANTS, subjects.OWNERS):
        made = configuration(name, Common())
        readers = [f"`{each}`" for each in flow.readers(name)]
        takes = ", ".join(f"`{each}`" for each in made["subjects"])
        bound = f"{made['max_bytes'] // _MIB:,} MiB"
        kept = f"{made['storage']}, {made['retention']}"
        rows.append([name, takes, kept, bound, made["discard"], ", ".join(readers) or "`jetmem dead-letters`"])
    return table(["stream", "takes", "kept", "at most", "when full discards", "read by"], rows)


def settings() -> str:
    """Every setting with its environment name, default and meaning."""
    from jetmem.console import configuration as layers

    return table(
        ["environment", "`jetmem.toml`", "default", "meaning"],
        [
            [f"`{env}`", f"`{key}`", f"`{_default(default)}`", meaning]
            for env, key, default, meaning in setting_rows(layers.sections())
        ],
    )


def setting_rows(sections: Any) -> list[tuple[str, str, Any, str]]:
    """Environment name, name in the file, default and meaning of every setting."""
    rows = []
    for section, kind in sections.items():
        meanings = attributes(kind)
        for name in kind.__struct_fields__:
            env = PREFIX + (f"{section}_{name}" if section else name).upper()
            key = f"{section}.{name}" if section else name
            rows.append((env, key, getattr(kind(), name), meanings.get(name, "")))
    return rows


def attributes(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What a docstring says under `Attributes:`, by field, each on one line."""
    _, _, body = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    last = ""
    for line in inspect.cleandoc(body).splitlines():
        named = _ATTRIBUTE.match(line)
        if named:
            last, found[named[1]] = named[1], named[2]
        elif last and line.startswith(" "):
            found[last] += " " + line.strip()
    return found


def metric_table() -> str:
    """Every metric."""
    rows = []
    for value in vars(metrics).values():
        labels = getattr(value, "_labelnames", None)
        if labels is None:
            continue
        total = "_total" if value._type == "counter" else ""
        shown = ", ".join(f"`{label}`" for label in labels) or "–"
        rows.append([f"`{value._name}{total}`", value._type, shown, value._documentation])
    return table(["metric", "type", "labels", "meaning"], rows)


def verbs() -> str:
    """The query verbs with what each asks for."""
    shared = set(asking.Request.__struct_fields__)
    rows = []
    for verb, (request, reply) in requests.VERBS.items():
        fields = [f"`{name}`" for name in request.__struct_fields__ if name not in shared]
        answers = [f"`{name}`" for name in reply.__struct_fields__ if name not in asking.Reply.__struct_fields__]
        first = inspect.cleandoc(request.__doc__ or "").splitlines()[0]
        rows.append([f"`{verb}`", first, ", ".join(fields) or "–", ", ".join(answers)])
    return table(["verb", "answers", "fields of the request", "fields of the reply"], rows)


def dead_codes() -> str:
    """Why a published message may become a dead letter."""
    return table(["code", "meaning"], [[f"`{code}`", text] for code, text in errors.DEAD_CODES.items()])


def request_codes() -> str:
    """Why a question may be refused."""
    return table(["code", "meaning"], [[f"`{code}`", text] for code, text in errors.REQUEST_CODES.items()])


def command_line() -> str:
    """The help of every command, as a page."""
    from typer.main import get_command

    from jetmem.cli import app

    root: Any = get_command(app)
    parts = [
        "# The command line\n\nGenerated from `jetmem --help` by `make docs`; do not edit.\n\n"
        "Exit codes: 0 done; 1 failed, or nothing is recorded under what was asked for; 2 refused: wrong options or "
        "values, settings, a folder or port in use, no terminal to ask on; 130 interrupted."
    ]
    parts += [_command(f"jetmem {name}", command) for name, command in _commands(root)]
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found += _commands(command, f"{prefix}{name} ") if inner else [(prefix + name, command)]
    return found


def _command(title: str, command: Any) -> str:
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    arguments = [p for p in shown if not p.opts[0].startswith("-")]
    options = [p for p in shown if p.opts[0].startswith("-")]
    usage = " ".join([title, *(_metavar(p) for p in arguments), *(["[OPTIONS]"] if options else [])])
    help_text = inspect.cleandoc(command.help or "")
    parts = [f"## {title}", f"```text\n{usage}\n```", help_text]
    if arguments:
        parts.append(table(["argument", "meaning"], [[f"`{_metavar(p)}`", p.help or ""] for p in arguments]))
    if options:
        rows = [[_flags(p), _default_of(p), p.help or ""] for p in options]
        parts.append(table(["option", "default", "meaning"], rows))
    return "\n\n".join(parts)


def _metavar(argument: Any) -> str:
    name = str(argument.metavar or argument.name).upper()
    name = f"{name}…" if argument.nargs == -1 or argument.multiple else name
    return name if argument.required else f"[{name}]"


def _flags(option: Any) -> str:
    names = ", ".join(f"`{each}`" for each in [*option.opts, *option.secondary_opts])
    return f"{names} (`{option.envvar}`)" if option.envvar else names


def _default_of(option: Any) -> str:
    if isinstance(option.show_default, str):
        return f"`{option.show_default}`"
    value = option.default
    return "" if value in (None, False, "", [], ()) else f"`{_default(value)}`"


def _default(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else ('""' if value == "" else str(value))


#: What a page may hold between markers.
PARTS: Final[dict[str, Callable[[], str]]] = {
    "picture": picture,
    "stages": stages,
    "streams": streams,
    "settings": settings,
    "metrics": metric_table,
    "verbs": verbs,
    "dead-codes": dead_codes,
    "request-codes": request_codes,
}
