"""Learn off the hot path how to predict success, and use what was learnt only while it is better.

A fit takes a bounded sample of situations with the runs they had. Everything is chosen on situations that the chosen
thing had not seen: folds over clusters of near-equal tasks, the weights of one fold learnt on the others. `Fitted.how`
says which of the candidates won; the plainest one that is not clearly worse is taken (the rule of standard errors,
Breiman and others, 1984), so on little or unrelated data the answer stays the procedure's rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import difficulty, estimate, stacking
from jetmem.domain.procedures.boosted import Boosted
from jetmem.domain.procedures.kernels import Contexts, Floats, Kernel, Situations
from jetmem.domain.procedures.stacking import Parts, Weights

How: TypeAlias = Literal["rate", "simple", "factors", "boosted"]
#: From plain to rich; "boosted" is a candidate only when it is asked for.
HOWS: Final[tuple[How, ...]] = ("rate", "simple", "factors", "boosted")
FOLDS: Final = 5
#: Ways to cut into folds that are averaged (repeated cross-validation; Kim, 2009): with one, what is chosen and weighed
#: hangs on the order of the tasks; log-loss of intercode-sql-dev then lies between 0.437 and 0.441.
REPEATS: Final = 5
#: Fewer of them where situations are many: time grows with their cube, and less hangs on the cut.
REPEATED_MAX: Final = 2_500
_SEED: Final = 23
#: Tasks at least this near are held out together; 90 % of intercode-sql-dev's paraphrases are.
NEAR_EQUAL: Final = 0.75
#: Variance of one run's outcome over that of ease; which one is chosen by held-out loss.
NOISES: Final = (7.5, 15.0, 30.0, 60.0, 120.0, 480.0)
#: Situations and procedures of one fit: some seconds, once in a while, off the hot path.
SITUATIONS_MAX: Final = 2_000
PROCEDURES_MAX: Final = 512
#: Clusters below which nothing but the rate is trusted.
CLUSTERS_MIN: Final = 20
#: Standard errors by which a richer candidate must be better than a plainer one.
BETTER: Final = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    """Runs by situation and procedure: `successes` and `runs` are (situations, procedures); rows in a fixed order."""

    situations: Situations
    successes: Floats
    runs: Floats

    def take(self, rows: NDArray[np.intp]) -> Sample:
        """Those of these situations."""
        return Sample(self.situations.take(rows), self.successes[rows], self.runs[rows])


@dataclass(frozen=True, slots=True)
class Held:
    """Log-loss a run of each candidate on held-out situations, and by cluster of near-equal tasks, summed."""

    loss: Mapping[str, float]
    lost: Mapping[str, Floats]
    runs: float = 0.0

    def error(self, how: str, than: str) -> float:
        """Standard error of the gain over another candidate (Cameron and Miller, 2015): clusters are independent."""
        gain = self.lost[than] - self.lost[how]
        return float(np.sqrt(len(gain)) * gain.std()) / max(1.0, self.runs)


class Fitted:
    """What one fit learnt; immutable, made again from the same sample it is the same."""

    def __init__(
        self, sample: Sample, how: How, noise: float, weights: Weights, boosted: Boosted | None, held: Held
    ) -> None:
        self.how, self.noise, self.held = how, noise, held
        self._weights, self._boosted = weights, boosted
        self._maker = Maker(sample, Kernel(sample.situations))
        smoother = self._maker.smoother() if noise else None
        self._smooth = smoother.weights(noise) if smoother else None
        self._own = smoother.own(noise, self._maker.group) if smoother else None

    @property
    def dimensions(self) -> int:
        """Of the vectors that it was fitted to."""
        return int(self._maker.sample.situations.vectors.shape[1])

    def predict(self, asked: Situations, how: How | None = None) -> Floats:
        """Probability of every procedure of the sample for each asked situation, (asked, procedures), clipped.

        What came of runs at a very task that is asked about is left out: `repeats` tells what that is worth.
        """
        how = how or self.how
        parts = self._maker.parts(asked, self._smooth, self._own)
        return estimate.clipped(answer(how, parts, self._weights, self._boosted))


class Maker:
    """Turns known runs into what stands behind a probability."""

    def __init__(self, sample: Sample, kernel: Kernel) -> None:
        self.sample, self.kernel = sample, kernel
        self._table = estimate.table(sample.successes, sample.runs)
        numbers: dict[str, int] = {}
        #: Situations of one task are a group.
        self.group = np.array([numbers.setdefault(each, len(numbers)) for each in sample.situations.texts], np.intp)
        self._numbers = numbers
        self._contexts = Contexts(sample.situations.contexts)
        self.rate = estimate.rates(sample.successes.sum(0), sample.runs.sum(0))
        self.ease = difficulty.ease(sample.successes, sample.runs, self.rate)
        self._scale = self.ease.care / np.maximum(self.rate * (1.0 - self.rate), 0.03)

    def smoother(self, gram: Floats | None = None) -> difficulty.Smoother:
        """Of the known situations; `gram` if their likeness is known already."""
        return difficulty.Smoother(self.kernel.to(self.sample.situations) if gram is None else gram, self.ease)

    def parts(self, asked: Situations, smooth: Floats | None, own: Floats | None = None) -> Parts:
        """Rates, and ease of the asked situations.

        Args:
            asked: Any.
            smooth: From `Smoother.weights`, of the sample's situations; None leaves ease out.
            own: From `Smoother.own`, to leave out what the sample knows of the very tasks; None to count it.
        """
        cosine = (asked.vectors @ self.sample.situations.vectors.T).astype(np.float64)
        same = self._contexts.to(asked.contexts)
        ease = np.zeros(len(asked)) if smooth is None else self.kernel.to(asked, cosine, same) @ smooth
        if own is not None:
            self._leave_out(asked, same, own, ease, cosine)
        there, near = estimate.simple(self._table, self.rate, cosine, same)
        return Parts(np.tile(self.rate, (len(asked), 1)), there, near, self.eased(ease))

    def _leave_out(self, asked: Situations, same: Floats, own: Floats, ease: Floats, cosine: Floats) -> None:
        """Take what is known of the very tasks from `ease` and `cosine`."""
        for row, text in enumerate(asked.texts):
            if text in self._numbers:
                known = np.flatnonzero(self.group == self._numbers[text])
                here = known[same[row, known] == same[row, known].max()]
                ease[row] -= float(own[here].mean())
                cosine[row, known] = -1.0

    def eased(self, ease: Floats) -> Floats:
        """Ease in probability to every procedure's logit, by its care and the slope of the logit at its rate."""
        return np.asarray(ease[:, None] * self._scale[None, :])


def answer(how: How, parts: Parts, weights: Weights, boosted: Boosted | None) -> Floats:
    """Probability by one candidate."""
    if how == "rate":
        return parts.rate
    if how == "simple":
        return parts.near
    if how == "boosted" and boosted is not None:
        return boosted.apply(parts, stacking.apply(weights, parts))
    return stacking.apply(weights, parts)


def fit(sample: Sample, *, boost: bool = False, better: float = BETTER) -> Fitted:
    """Learn from a sample, and choose.

    Args:
        sample: At most `SITUATIONS_MAX` situations and `PROCEDURES_MAX` procedures, at least one of each.
        boost: Whether gradient boosting is a candidate.
        better: Standard errors asked of a richer candidate.
    """
    cosine = (sample.situations.vectors @ sample.situations.vectors.T).astype(np.float64)
    cluster = difficulty.clusters(cosine, NEAR_EQUAL)
    if cluster.max() + 1 < CLUSTERS_MIN:
        nothing = Weights(np.zeros(3), np.zeros((sample.runs.shape[1], 4)))
        return Fitted(sample, "rate", 0.0, nothing, None, Held({}, {}))
    fold = _cut(cluster)
    cluster, often = np.tile(cluster, len(fold)), _often(sample, len(fold))
    every = _unseen(sample, fold)
    noise, parts = min(every.items(), key=lambda each: _shared_loss(each[1], often))
    weights = stacking.fit(parts, often.successes, often.runs)
    boosted = Boosted.fit(parts, stacking.apply(weights, parts), often.successes, often.runs) if boost else None
    held = _compare(parts, often, cluster, fold.ravel(), boost=boost)
    return Fitted(sample, _choose(held, better), noise, weights, boosted, held)


def _cut(cluster: NDArray[np.intp]) -> NDArray[np.intp]:
    """The fold of every situation, clusters whole, by each repeat: (repeats, situations)."""
    rng = np.random.default_rng(_SEED)
    count = int(cluster.max()) + 1
    repeats = max(1, min(REPEATS, REPEATED_MAX // len(cluster)))
    return np.stack([rng.permutation(count)[cluster] % FOLDS for _ in range(repeats)])


def _often(sample: Sample, repeats: int) -> Sample:
    """The sample once for each repeat, one after the other; all of it together counts as many runs as before."""
    situations = sample.situations.take(np.tile(np.arange(len(sample.situations)), repeats))
    once = sample.successes / repeats, sample.runs / repeats
    return Sample(situations, *(np.tile(each, (repeats, 1)) for each in once))


def _unseen(sample: Sample, folds: NDArray[np.intp]) -> dict[float, Parts]:
    """Parts of every situation, made without its fold, for each noise; of one repeat after the other."""
    kernel = Kernel(sample.situations)
    gram = kernel.to(sample.situations)
    repeats = [_unseen_once(sample, kernel, gram, fold) for fold in folds]
    return {noise: Parts.joined([each[noise] for each in repeats]) for noise in NOISES}


def _unseen_once(sample: Sample, kernel: Kernel, gram: Floats, fold: NDArray[np.intp]) -> dict[float, Parts]:
    shape = sample.runs.shape
    rate, there, near = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    ease = {noise: np.zeros(shape) for noise in NOISES}
    for each in range(FOLDS):
        out, rest = np.flatnonzero(fold == each), np.flatnonzero(fold != each)
        maker = Maker(sample.take(rest), kernel)
        smoother = maker.smoother(gram[np.ix_(rest, rest)])
        parts = maker.parts(sample.situations.take(out), None)
        rate[out], there[out], near[out] = parts.rate, parts.there, parts.near
        for noise in NOISES:
            ease[noise][out] = maker.eased(gram[np.ix_(out, rest)] @ smoother.weights(noise))
    return {noise: Parts(rate, there, near, ease[noise]) for noise in NOISES}


def losses(probability: Floats, successes: Floats, runs: Floats) -> Floats:
    """Log-loss summed over the runs of each cell."""
    p = estimate.clipped(probability)
    return np.asarray(-(successes * np.log(p) + (runs - successes) * np.log(1.0 - p)))


def _shared_loss(parts: Parts, sample: Sample) -> float:
    probability = stacking.shared_fit(parts, sample.successes, sample.runs)
    return float(losses(probability, sample.successes, sample.runs).sum())


def _compare(parts: Parts, sample: Sample, cluster: NDArray[np.intp], fold: NDArray[np.intp], *, boost: bool) -> Held:
    """Loss of each candidate, its weights learnt without the fold that it answers for."""
    hows = HOWS if boost else HOWS[:-1]
    answers = {how: np.zeros(sample.runs.shape) for how in hows}
    for each in range(FOLDS):
        out, rest = fold == each, fold != each
        seen, asked = parts.of(rest), parts.of(out)
        successes, runs = sample.successes[rest], sample.runs[rest]
        weights = stacking.fit(seen, successes, runs)
        boosted = Boosted.fit(seen, stacking.apply(weights, seen), successes, runs) if boost else None
        for how in hows:
            answers[how][out] = answer(how, asked, weights, boosted)
    total = float(sample.runs.sum())
    lost = {how: losses(p, sample.successes, sample.runs).sum(1) for how, p in answers.items()}
    return Held(
        {how: float(each.sum() / total) for how, each in lost.items()},
        {how: _by_cluster(each, cluster) for how, each in lost.items()},
        total,
    )


def _by_cluster(lost: Floats, cluster: NDArray[np.intp]) -> Floats:
    return np.bincount(cluster, weights=lost).astype(np.float64)


def _choose(held: Held, better: float) -> How:
    """The richest of those that beat every plainer one by enough."""
    chosen: How = "rate"
    for how in HOWS:
        if how in held.loss and held.loss[how] + better * held.error(how, chosen) < held.loss[chosen]:
            chosen = how
    return chosen
