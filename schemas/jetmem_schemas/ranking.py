"""What a search may ask of its ranking beyond words and meaning: `Search.rank`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]
#: Below 0.5 nearly everything that a question finds is alike.
Cosine = Annotated[float, Meta(ge=0.5, le=1)]
#: A century: what is meant by more is no half-life.
Days = Annotated[float, Meta(ge=0, le=36_500)]


class Rank(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Ranking options; each is off by default, and what is left out is off (or, of a threshold, the default).

    Attributes:
        salience: Weight of an event's salience (its `importance` and its kind of statement) beside the question's
            own ranking; 0 is off.
        age_half_life_days: An event loses half of `age_share` of its score for so many days that it is older than
            the newest of the best hits; constraints, definitions, procedures and preferences lose nothing. 0 is off,
            14 a good start.
        age_share: Share of the score that age can take at most.
        supersede: Lower what a newer hit says again, perhaps differently, and what another event corrects by name.
        supersede_cosine: From this likeness on a newer hit lowers an older one, if it answers the question as well.
        supersede_share: Share of the score that what is superseded loses, for each of the two reasons.
        fold: Show near-duplicates as one hit, the newest, with the ids of the others in its `folded`.
        fold_cosine: From this likeness on two hits are near-duplicates.
    """

    salience: Share = 0.0
    age_half_life_days: Days = 0.0
    age_share: Share = 0.3
    supersede: bool = False
    supersede_cosine: Cosine = 0.80
    supersede_share: Share = 0.3
    fold: bool = False
    fold_cosine: Cosine = 0.95
