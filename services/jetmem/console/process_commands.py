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
    if detail == "starting":
        detail = f"starting, or not there: nothing healthy listens on {host}:{at} yet"
    typer.echo(detail or ("ok" if healthy else "unhealthy"), err=not healthy)
    raise typer.Exit(0 if healthy else 1)


def migrate(
    stage: Annotated[
        str, typer.Argument(help="Its name; a wrong one lists them all.", show_default="every one with a store")
    ] = "",
    data: Annotated[Path | None, typer.Option("--data", help="Data folder.", show_default="JETMEM_DATA")] = None,
) -> None:
    """Convert stores to this version's format; copy them first, to go back. Their stages must not run meanwhile."""
    from jetmem import flow
    from jetmem.console import configuration
    from jetmem.runtime.settings import SettingsError

    if stage and stage not in flow.NAMES:
        raise SettingsError(f"there is no stage {stage}; stages are {', '.join(flow.NAMES)}")
    root = configuration.data_root(data, os.environ)
    for each in flow.STAGES:
        if stage in ("", each.name) and each.store:
            typer.echo(f"{each.name}: {flow.layout(each.name).migrate(root)}")
        elif stage == each.name:
            typer.echo(f"{stage} keeps nothing")


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
