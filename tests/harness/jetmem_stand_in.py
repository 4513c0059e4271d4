"""The real `jetmem` command line with stand-in stages: `python jetmem_stand_in.py up --data …`.

Patience is shortened by `STAND_IN_READY_S` and `STAND_IN_STOP_S`.
"""

import os
import sys
from pathlib import Path

import msgspec

from jetmem import cli, supervisor
from jetmem.adapters.supervised import Timing

HERE = Path(__file__).resolve().parent


def stage_command(stage):
    return [sys.executable, str(HERE / "stand_in.py"), stage]


def up_command():
    return [sys.executable, str(HERE / "jetmem_stand_in.py"), "up"]


def timing():
    fields = {"restart_first_s": 0.05, "restart_last_s": 0.2}
    if "STAND_IN_READY_S" in os.environ:
        fields["ready_within_s"] = float(os.environ["STAND_IN_READY_S"])
    if "STAND_IN_STOP_S" in os.environ:
        fields["stop_s"] = float(os.environ["STAND_IN_STOP_S"])
    return Timing(**fields)


class Plan(supervisor.Plan, frozen=True, kw_only=True):
    timing: Timing = msgspec.field(default_factory=timing)


if __name__ == "__main__":
    supervisor.stage_command = stage_command
    supervisor.up_command = up_command
    supervisor.Plan = Plan
    cli.main()
