"""The flow with one stage more: its folder is `stages/tally`, its line is here. `python toy.py run tally` runs it."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

import jetmem  # noqa: E402
from jetmem import flow  # noqa: E402
from jetmem_schemas import subjects  # noqa: E402

LINE = flow.Stage(
    name="tally", reads=subjects.RECORD, emits=(), store="RocksDB", ack_point="checkpoint in the same write",
    does="counts words", arms=("tally",), settings="TallySettings",
)  # fmt: skip


def stages(*left_out):
    """The stages of the flow and the new one, before query."""
    *others, query = (each for each in flow.STAGES if each.name not in left_out)
    return (*others, LINE, query)


def path():
    """Where the packages of stages are."""
    return [*jetmem.__path__, str(HERE / "stages")]


def command(stage):
    """How a supervisor starts a stage of this flow."""
    return [sys.executable, str(HERE / "toy.py"), "run", stage]


if __name__ == "__main__":
    from jetmem import cli

    jetmem.__path__ = path()
    flow.STAGES = stages("embed", "summarize", "learn")
    flow.NAMES = tuple(each.name for each in flow.STAGES)
    cli.main()
