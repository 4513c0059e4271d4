"""Build and wire query."""

from __future__ import annotations

from typing import Any

from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.tenant_settings import TenantWatch
from jetmem.query import core, times
from jetmem.query.discovery import QUEUE, Discovery, Tally
from jetmem.query.handler import Query
from jetmem.query.settings import QuerySettings
from jetmem.query.stages import ShellStages
from jetmem.query.zones import WatchedZones
from jetmem.runtime.clock import Clock
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects
from jetmem_schemas.tenants import zone_of


def build(common: Common, settings: QuerySettings, *, clock: Clock | None = None, broker: Any = None) -> Shell:
    """Build the process; nothing is connected before `run`."""
    shell = Shell("query", common, clock=clock, broker=broker)
    times.load()
    tally = Tally()
    watch = TenantWatch(shell)
    watch.wire()
    zones = WatchedZones(watch, zone_of(common.timezone))
    query = Query(ShellStages(shell), settings, shell.clock, tally, zones=zones)
    shell.respond(subjects.QUERY_ALL, query.answer, queue=QUEUE, on_refused=core.verb_label)
    discovery = Discovery(tally, shell.clock)
    for subject in discovery.subjects():
        shell.respond(subject, discovery.answer, on_refused=lambda at: "discovery")
    return shell
