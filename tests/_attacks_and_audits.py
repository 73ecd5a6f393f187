"""Every attack and audit there is, small enough to be run in every step. A new one joins here, and is run in all fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from inspect import isabstract
from pkgutil import walk_packages
from typing import Any

import lightning_unlearn
from lightning_unlearn import (
    GGUF,
    GPTQ,
    AblateDirection,
    Attack,
    BitsAndBytes,
    ConceptShift,
    FactSplit,
    FileRecords,
    Interpolate,
    LatentPerturbation,
    Merge,
    Noise,
    PassiveRecovery,
    Prune,
    Quantize,
    Recalibrate,
    Relearn,
    Sharpen,
    TruncateUpdate,
    Wanda,
)
from lightning_unlearn.attacks import RoundingNoise, TorchAO
from lightning_unlearn.audits import (
    TOFU,
    AnswerRank,
    Audit,
    BucketFlips,
    Calibration,
    DoseResponse,
    ExactLeak,
    Familiarity,
    Generation,
    GradientNorm,
    HalfRecall,
    IdempotenceDrift,
    KnowledgeDepth,
    LayerProbe,
    LogitLens,
    Measure,
    Membership,
    SampledLeak,
    Specificity,
    Unattacked,
    Verbatim,
)
from lightning_unlearn.edits import Corrupt, Dampen, Edited
from lightning_unlearn.requests.fit import FITScore

FORGET = (0, 12)
"""Rows of the bundled people that audits ask about: two entities."""

SIBLING = "sibling.pt"
"""Weights of the network that is fitted, which whoever runs the fit writes before: each process to a folder of its own."""

TWO_STEPS: dict[str, Any] = {"steps": 2, "lr": 1e-2}

ATTACKS: dict[str, Callable[[], Attack]] = {
    "quantize": lambda: Quantize(bits=3, skip=()),
    "rounding_noise": lambda: RoundingNoise(bits=3),
    "relearn_adapter": lambda: Relearn(**TWO_STEPS),
    "relearn_full": lambda: Relearn(mode="full", **TWO_STEPS),
    # The last layer of a small classifier, and the only block of a language model.
    "relearn_some_layers": lambda: Relearn(
        mode="full", layers=["4", "*layers.0.*"], data="other", repeats=2, **TWO_STEPS
    ),
    "relearn_some_facts": lambda: Relearn(facts=FactSplit(by="fact"), order_seed=1, **TWO_STEPS),
    "passive": lambda: PassiveRecovery(0.5, **TWO_STEPS),
    "concept_shift": lambda: ConceptShift("other", every=1, **TWO_STEPS),
    "recalibrate": Recalibrate,
    "noise": Noise,
    "sharpen": Sharpen,
    "ablate": lambda: AblateDirection([r"(net|layers)\.0"]),
    "latent": lambda: LatentPerturbation(r"(net|layers)\.0", steps=2),
    "prune": Prune,
    "wanda": lambda: Wanda(head=True),
    "gptq": lambda: GPTQ(3, head=True),
    "gguf": lambda: GGUF("Q4_0", head=True),
    "nf4_kernel": lambda: BitsAndBytes("nf4"),
    "fp4_kernel": lambda: BitsAndBytes("fp4"),
    "int8_kernel": lambda: BitsAndBytes("int8"),
    "torchao": lambda: TorchAO("int8"),
    "merge": lambda: Merge(SIBLING),
    "interpolate": Interpolate,
    "truncate": lambda: TruncateUpdate(1),
    "edited": lambda: Edited(Dampen(alpha=1.2)),
    "edited_without_data": lambda: Edited(Corrupt(alpha=0.5)),
}
"""On weights and activations; those by prompt are `PROMPTS` in `_prompts.py`."""

if find_spec("torchao") is None:
    del ATTACKS["torchao"]

AUDITS: dict[str, Callable[[], Audit]] = {
    "measure": Measure,
    "specificity": Specificity,
    "bucket_flips": BucketFlips,
    "calibration": Calibration,
    "exact_leak": ExactLeak,
    "membership": lambda: Membership(holdout="retain"),
    "gradient_norm": lambda: GradientNorm(holdout="retain"),
    "answer_rank": lambda: AnswerRank(alternates=2, holdout="retain"),
}
"""Of any network."""

AUDITS_IN_WORDS: dict[str, Callable[[], Audit]] = {
    "dose_response": lambda: DoseResponse(doses(), split="forget", draws=5),
    "familiarity": lambda: Familiarity(holdout="retain"),
    "layer_probe": lambda: LayerProbe(permutations=20, hidden=4),
    "lens": LogitLens,
    "depth": KnowledgeDepth,
    "drift": lambda: IdempotenceDrift(max_new_tokens=2),
    "generation": lambda: Generation("bundled", max_new_tokens=2),
    "half_recall": lambda: HalfRecall("bundled", max_new_tokens=2),
    "verbatim": lambda: Verbatim("bundled", prefixes=(2,), continuation=2),
    "sampled_leak": lambda: SampledLeak("bundled", k=(1,), per_round=2, samples=2, max_new_tokens=2),
    "tofu": lambda: TOFU("bundled", max_new_tokens=2),
    "fit_score": lambda: Unattacked(FITScore("bundled", max_new_tokens=2)),
}
"""Of language models, which are asked in words."""

IN_NO_CHECK = {
    "TokenwisePerturbation": "trained on one batch and of use for this one only: checks refuse it",
    "AllWordings": "what `AnyWording` and `TypicalWording` have in common",
    "TorchAO": "needs torchao, which is not everywhere: in the list where it is",
}
"""Classes that are in no list above, and why."""


def doses() -> dict[str, int]:
    """How often each entity was repeated."""
    people = FileRecords("bundled:people", entity="entity", rows=FORGET).questions()
    return {name: 4 * number for number, name in enumerate(dict.fromkeys(row.entity for row in people))}


def public_kinds(base: type) -> set[type]:
    """Classes of a kind that can be made, and that a room of the package, or the package, exports."""
    return {
        found
        for module in _rooms()
        for name in getattr(module, "__all__", ())
        if isinstance(found := getattr(module, name), type) and issubclass(found, base) and not isabstract(found)
    }


def _rooms() -> Iterator[Any]:
    yield lightning_unlearn
    for found in walk_packages(lightning_unlearn.__path__, "lightning_unlearn."):
        if found.ispkg:
            yield import_module(found.name)
