"""Settings of query."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jetmem_schemas.ranking import Cosine, Days, Share


class QuerySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long query waits for others, and the ranking options of searches that name none (`ranking.Rank`).

    Attributes:
        encode_timeout_s: After this the question is answered by words alone.
        service_timeout_s: After this a stage counts as down for this answer.
        forget_wait_s: How long `forget` waits for every stage before it lists who is late.
        rank_salience: Weight of an event's salience beside the question's own ranking; 0 is off.
        rank_age_half_life_days: An event loses half of `rank_age_share` of its score in so many days; 0 is off.
        rank_age_share: Share of the score that age can take at most.
        rank_supersede: Lower what a newer hit says again, and what another event corrects.
        rank_supersede_cosine: From this likeness on a newer hit lowers an older one.
        rank_supersede_share: Share of the score that what is superseded loses, for each of both reasons.
        rank_fold: Show near-duplicates as one hit, the newest.
        rank_fold_cosine: From this likeness on two hits are near-duplicates.
    """

    encode_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 0.5
    service_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 3.0
    forget_wait_s: Annotated[float, Meta(gt=0, le=600)] = 15.0
    rank_salience: Share = 0.0
    rank_age_half_life_days: Days = 0.0
    rank_age_share: Share = 0.3
    rank_supersede: bool = False
    rank_supersede_cosine: Cosine = 0.80
    rank_supersede_share: Share = 0.3
    rank_fold: bool = False
    rank_fold_cosine: Cosine = 0.95
