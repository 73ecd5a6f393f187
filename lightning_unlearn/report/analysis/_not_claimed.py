"""What a report says nothing about, from what was not tried."""

import re
from collections.abc import Iterator, Mapping, Sequence

from lightning_unlearn.report.analysis._observation_index import ObservationIndex

FAMILIES = {
    "relearn": "relearning: fine-tuning on what was forgotten, or on something near it",
    "prompt": "prompts: the same questions in other words, in other languages, with examples or role play",
    "quant": "rounding to few bits, as many deployments do",
    "prune": "pruning",
    "merge": "merging with other models",
    "latent": "perturbed activations",
    "noise": "noise on the weights",
}
"""Kinds of attacks that are known to bring knowledge back, in words, the most telling first."""

AUDITS = {
    "generat|rouge|leak|pass_at|refusal|verbatim": "That it does not say it: what the model answers in its own words "
    "was not read.",
    "member|min_k|zlib|privleak|recogni": "That nobody can tell what it was trained on: tests of membership "
    "were not made.",
}
"""Metrics by a pattern of their names, and what is not known without any of them."""


def not_claimed(index: ObservationIndex, training_runs: int = 1) -> list[str]:
    """What the observations leave open, in plain sentences.

    Args:
        index: All observations.
        training_runs: How many runs with different seeds are in it.
    """
    return [
        "That the model is as if it had never seen the data. Nothing here is a proof: attacks that were not tried, or with "
        "more effort, may bring back more.",
        *_families(index),
        *_audits({o.metric for o in index.observations}),
        *_inside(index),
        *_splits(index),
        *_subjects(index),
        *([] if training_runs > 1 else ["That another seed of the training would give the same: this is one run."]),
    ]


def _families(index: ObservationIndex) -> Iterator[str]:
    tried = {o.family for o in index.observations if o.attacked and o.subject == index.attacked_subject}
    if missing := [words for family, words in FAMILIES.items() if family not in tried]:
        yield f"That it withstands attacks that were not tried: {'; '.join(missing)}."


def _audits(metrics: set[str], known: Mapping[str, str] = AUDITS) -> Iterator[str]:
    for pattern, words in known.items():
        if not any(re.search(pattern, metric.lower()) for metric in metrics):
            yield words


def _inside(index: ObservationIndex) -> Iterator[str]:
    if not any(o.layer for o in index.observations):
        yield "That nothing is left inside: no layer was looked into, only answers."


def _splits(index: ObservationIndex) -> Iterator[str]:
    if "retain" not in index.splits:
        yield "That the rest of the model still works: no retain set was measured."
    elif not _asked_besides(index):
        yield (
            "That the model kept what is near the forget set, or what it can do in general: only the forget set and the "
            "retain set were measured."
        )


def _asked_besides(index: ObservationIndex) -> bool:
    """Whether the forget set's questions were asked of anything else, but for a holdout, which is no part of the use."""
    asked = {o.metric for o in index.observations if o.split == "forget" and not o.layer}
    compared = {split.removeprefix("forget_vs_") for split in index.further_splits if split.startswith("forget_vs_")}
    return any(
        o.split not in ("forget", "retain", *compared) and o.metric in asked and not o.layer for o in index.observations
    )


def _subjects(index: ObservationIndex) -> Iterator[str]:
    subjects: Sequence[str] = [o.subject for o in index.observations]
    if "original" not in subjects:
        yield "That anything was removed: the original was not measured."
    if "control" not in subjects:
        yield "That what came back was still in the model: without a control, an attack may have taught it anew."
