"""What agents hear of each other's runs, on `notify` subjects."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import msgspec

Topic: TypeAlias = Literal["success", "failure", "crystallized", "dissolved"]
TOPICS: Final[tuple[Topic, ...]] = get_args(Topic)


class WaveTold(msgspec.Struct, frozen=True, kw_only=True):
    """On `notify.success`, `failure`, `crystallized` and `dissolved`: what a run did to its procedure.

    `strength`: of an outcome, how far it is from what was expected; of a crystal, the lower bound of its rate; of one
    that dissolved, the share of its last runs that failed.
    """

    procedure: str
    agent: str
    strength: float
    task: str
    run: str
