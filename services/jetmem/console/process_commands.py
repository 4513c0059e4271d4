"""`jetmem health`, `jetmem migrate`, `jetmem prepare-model`: what containers run beside the stages themselves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Final

import typer

#: A container's health check is given a few seconds by whoever runs it; the sentence must come before that.
_ANSWER_S: Final = 2.0
#: Who listens on every address is asked on loopback.
_EVERYWHERE: Final = ("", "0.0.0.0", "::")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("health")(health)
    app.command("migrate")(migrate)
    app.command("prepare-model")(prepare_model)


def health(
    port: Annotated[
        int | None,
        typer.Option(help="Of its /healthz, on this machine.", show_default="JETMEM_HTTP_PORT", min=1, max=65535),
    ] = None,
) -> None:
    """Ask a process of ours how it is: code 0 while it makes progress or has nothing to do, else 1 and why."""
    from jetmem.adapters.http_health import healthz
    from jetmem.adapters.nats_server import LOOPBACK
    from jetmem.console import configuration
    from jetmem.runtime.settings import SettingsError

    common = configuration.load(None, os.environ)[""]
    at = port or common.http_port
    if not at:
        raise SettingsError("no port is known; give --port or set JETMEM_HTTP_PORT")
    host = LOOPBACK if common.http_host in _EVERYWHERE else common.http_host
    healthy, detail = asyncio.run(healthz(at, _ANSWER_S, host))
    typer.echo(detail or ("ok" if healthy else "unhealthy"), err=not healthy)
    raise typer.Exit(0 if healthy else 1)


def migrate(
    stage: Annotated[str, typer.Argument(help="Its name; a wrong one lists them all.")],
    data: Annotated[Path | None, typer.Option("--data", help="Data folder.", show_default="JETMEM_DATA")] = None,
) -> None:
    """Bring a stage's store to this version's format, or say why that cannot be; the stage must not run meanwhile."""
    from jetmem import flow
    from jetmem.console import configuration
    from jetmem.runtime.logs import configure
    from jetmem.runtime.settings import SettingsError

    if stage not in flow.NAMES:
        raise SettingsError(f"there is no stage {stage}; stages are {', '.join(flow.NAMES)}")
    root = configuration.data_root(data, os.environ)
    file = configuration.settings_file(None, root)
    settings = configuration.load(file, os.environ, data=str(root))
    if not flow.stage(stage).store:
        typer.echo(f"{stage} keeps nothing")
        return
    configure("warning", settings[""].log_format, stage)

    async def work() -> None:  # building opens the store, which checks and converts it; nothing is connected
        await flow.build(stage, settings).close()

    asyncio.run(work())
    typer.echo(f"{stage}: the store in {root} has this version's format")


def prepare_model() -> None:
    """Export the model of `embed.model` into `embed.cache`, as an image is built; a start then only measures it."""
    from jetmem.adapters.encoder_export import FP32, INT8, ensure_export
    from jetmem.adapters.model_files import find_model
    from jetmem.console import configuration
    from jetmem.runtime.settings import SettingsError

    settings = configuration.load(None, os.environ)["embed"]
    if not settings.cache:
        raise SettingsError("set JETMEM_EMBED_CACHE to the folder that is to keep the export")
    made = ensure_export(find_model(settings.model), Path(settings.cache), [FP32, INT8])
    typer.echo(f"{settings.model} is ready in {made.folder}")
