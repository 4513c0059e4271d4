"""`jetmem up`, `jetmem down`, `jetmem run`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

#: The background start gives up a little after the supervisor itself does.
_DETACH_MARGIN_S: Final = 30.0
_POLL_S: Final = 0.05
#: Libraries that report home unless told not to; onnxruntime reads its name when it is imported.
SILENCED: Final = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
#: numpy's threads spin while they wait for each other: with two questions at once on two cores a scan of 5,000 vectors
#: took 5 times as long. Questions run beside each other instead. Read when numpy is imported.
ONE_THREAD: Final = ("OPENBLAS_NUM_THREADS",)
#: What a first start leaves in the cache of models when it is through.
_PREPARED: Final = "measured-*/[ot]*.json"
#: A supervisor that has its lock writes at once what it is.
_STATE_WITHIN_S: Final = 5.0

T = TypeVar("T")

Data = Annotated[Path | None, typer.Option("--data", help="Data folder.", show_default="~/.local/share/jetmem")]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings.", show_default="jetmem.toml in the data folder")
]
HttpPort = Annotated[
    int | None, typer.Option(help="First port for /metrics and /healthz.", show_default="free ones", min=0, max=65000)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("run")(run)


def up(
    data: Data = None,
    port: Annotated[int, typer.Option(help="Port of the broker; 0 takes a free one.", min=0, max=65535)] = 4222,
    detach: Annotated[bool, typer.Option("--detach", help="Start in the background, return when ready.")] = False,
    http_port: HttpPort = None,
    config: Config = None,
) -> None:
    """Start a nats-server and every stage, on loopback, supervised, all data in one folder."""
    import msgspec

    from jetmem.adapters.supervised import Timing
    from jetmem.console import configuration
    from jetmem.console.temporary import CACHE
    from jetmem.supervisor import Plan, stage_command

    root = configuration.data_root(data, os.environ)
    file = configuration.settings_file(config, root)
    settings = configuration.load(file, os.environ, http_port=http_port)
    if detach:
        arguments = ["--data", str(root), "--port", str(port)]
        arguments += ["--http-port", str(http_port)] if http_port is not None else []
        arguments += ["--config", str(file)] if file else []
        raise typer.Exit(_detached(root, arguments, Timing().alive_within_s + _DETACH_MARGIN_S))
    named = ["--config", str(file)] if file else []
    cache = _models(settings["embed"].cache, root)
    plan = Plan(
        root=root,
        port=port,
        http_base=settings[""].http_port,
        common=settings[""],
        nats=settings[configuration.NATS],
        environ={**os.environ, CACHE: str(cache)},
        starting="" if any(cache.glob(_PREPARED)) else f"preparing the model (about a minute, once), kept in {cache}",
        command=lambda stage: [*stage_command(stage), *named],
    )
    patience_s = settings[configuration.UP].unhealthy_restart_s
    timing = msgspec.structs.replace(plan.timing, unhealthy_restart_s=patience_s)
    asyncio.run(_supervise(msgspec.structs.replace(plan, timing=timing)))


def _models(configured: str, root: Path) -> Path:
    """Where models are kept: as set, the user's shared cache, or the data folder where that cannot be written."""
    from jetmem.console.temporary import model_cache

    if configured:
        return Path(configured)
    try:
        shared = model_cache()
        shared.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or none of ours
        return root / "models"
    return shared if os.access(shared, os.W_OK) else root / "models"


async def _supervise(plan: Any) -> None:
    from jetmem.console.board import Board
    from jetmem.supervisor import Supervisor

    with Board() as board:
        supervisor = Supervisor(plan, show=board.show, tell=board.tell)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, supervisor.stop)
        await supervisor.run()


def _detached(root: Path, arguments: list[str], patience_s: float) -> int:
    """Start `jetmem up` in a session of its own; wait until it is ready or has failed; its exit code, 0 for ready."""
    from jetmem.adapters.data_folder import DataFolder, Refused
    from jetmem.adapters.processes import rotate
    from jetmem.supervisor import up_command

    folder = DataFolder(root)
    if folder.in_use():
        raise folder.taken()
    log = folder.logs / "supervisor.log"
    try:
        rotate(log)
        begin = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            child = subprocess.Popen(
                [*up_command(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
    except OSError as error:
        raise Refused(f"data folder {folder.root} cannot be used: {error.strerror or error}") from error
    try:
        return _wait_ready(child, folder, log, begin, patience_s)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    finally:
        child.returncode = child.returncode or 0  # it goes on without us: no warning that it still runs


def _wait_ready(child: subprocess.Popen[bytes], folder: Any, log: Path, begin: int, patience_s: float) -> int:
    from jetmem.adapters.processes import last_line
    from jetmem.console.board import ready_line

    deadline = time.monotonic() + patience_s
    said = 0
    while True:
        code = child.poll()
        if code is not None:
            typer.echo(last_line(log, begin) or f"the supervisor ended with code {code}; see {log}", err=True)
            return code if code in (1, 2) else 1
        state = folder.read()
        if state and state.pid == child.pid:
            for sentence in state.told[said:]:
                typer.echo(sentence, err=True)
            said = len(state.told)
        if state and state.pid == child.pid and state.ready:
            typer.echo(ready_line(state))
            return 0
        if time.monotonic() > deadline:
            child.terminate()
            typer.echo(f"not ready after {patience_s:.0f} s; see {log}", err=True)
            return 1
        time.sleep(_POLL_S)


def down(data: Data = None) -> None:
    """Stop what `jetmem up` started on a data folder, and wait until it has ended."""
    from jetmem.adapters.data_folder import DataFolder
    from jetmem.adapters.supervised import Timing
    from jetmem.console import configuration

    folder = DataFolder(configuration.data_root(data, os.environ))
    if not folder.in_use():
        typer.echo(f"nothing runs on {folder.root}")
        return
    state = folder.supervisor() or _until(folder.supervisor, _STATE_WITHIN_S)
    if state is None:
        typer.echo(f"{folder.root} is in use, but by no process that says what it is; nothing was stopped", err=True)
        raise typer.Exit(1)
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid, signal.SIGTERM)
    patience_s = Timing().stop_s * (len(state.processes) + 1)
    if not _until(lambda: not folder.in_use(), patience_s):
        typer.echo(f"process {state.pid} was told to stop and still runs after {patience_s:.0f} s", err=True)
        raise typer.Exit(1)
    stopped = ", ".join(each.name for each in reversed(state.processes))
    typer.echo(f"stopped {stopped} in {time.monotonic() - began:.1f} s ({state.server}, {folder.root})")


def _until(condition: Callable[[], T], patience_s: float) -> T | None:
    """The first true value of `condition` within so many seconds."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(_POLL_S)
    return None


def run(
    stage: Annotated[str, typer.Argument(help="Its name; a wrong one lists them all.")],
    shard: Annotated[int | None, typer.Option(help="Ordinal of this process.", min=0)] = None,
    shards: Annotated[int | None, typer.Option(help="Processes that share the partitions.", min=1)] = None,
    config: Config = None,
) -> None:
    """Run one stage in the foreground until SIGTERM; settings come from the environment and jetmem.toml."""
    from jetmem import flow
    from jetmem.console import configuration
    from jetmem.runtime.settings import Common, SettingsError

    if stage not in flow.NAMES:
        raise SettingsError(f"there is no stage {stage}; stages are {', '.join(flow.NAMES)}")
    data = Path(os.environ.get("JETMEM_DATA") or Common().data)
    file = configuration.settings_file(config, data)
    settings = configuration.load(file, os.environ, shard=shard, shards=shards)
    common = settings[""]
    if common.shard >= common.shards and flow.stage(stage).replicas:
        raise SettingsError(f"shard {common.shard} does not exist among {common.shards}; the first is 0")
    raise typer.Exit(_run_stage(stage, settings))


def _run_stage(stage: str, settings: Mapping[str, Any]) -> int:
    """Run it to its end; 0 after a clean stop, 1 when it could not go on, 2 when it cannot begin as things are."""
    for name in (*SILENCED, *ONE_THREAD):
        os.environ.setdefault(name, "1")
    import nats.errors
    import uvloop

    from jetmem import flow
    from jetmem.adapters.priority import give_way
    from jetmem.runtime import crashpoints
    from jetmem.runtime.errors import Broken, WrongFormat
    from jetmem.runtime.logs import configure, logger
    from jetmem.runtime.settings import SettingsError

    give_way(flow.stage(stage).nice)
    common = settings[""]
    configure(common.log_level, common.log_format, stage)
    try:
        crashpoints.arm(common.crash)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_stage(flow, stage, dict(settings)))
    except (Broken, OSError, nats.errors.Error) as error:
        logger().error("stopped", error=_chain(error))
        typer.echo(f"{stage}: {_chain(error)}", err=True)
        return 2 if isinstance(error, WrongFormat) else 1
    return 0


async def _stage(flow: Any, stage: str, settings: dict[str, Any]) -> None:
    await flow.build(stage, settings).run()


def _chain(error: BaseException) -> str:
    """The error and what caused it, on one line."""
    parts: list[str] = []
    at: BaseException | None = error
    while at is not None:
        text = str(at) or type(at).__name__
        if not parts or text not in parts[-1]:
            parts.append(text)
        at = at.__cause__
    return ": ".join(parts)
