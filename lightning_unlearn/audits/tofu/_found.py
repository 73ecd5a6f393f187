"""Observations of the metrics of TOFU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.audits._base import observations_of
from lightning_unlearn.audits.tofu._questions import TofuScores
from lightning_unlearn.audits.tofu._summary import distances, tofu_summary
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.truth_ratio import near_one, true_better, true_share
from lightning_unlearn.metrics import (
    AnswerProbability,
    ExactMemorization,
    ExtractionStrength,
    Fluency,
    ForgetQuality,
    ModelUtility,
    OptionProbability,
    RougeLF,
    RougeLRecall,
    TruthRatioNearOne,
    TruthRatioTrueBetter,
    TruthRatioTrueShare,
)
from lightning_unlearn.observation import Observation

_RATIOS: dict[str, Callable[[Tensor], Tensor]] = {
    "truth_ratio_near_one": near_one,
    "truth_ratio_true_better": true_better,
    "truth_ratio_true_share": true_share,
}
_OF_QUESTIONS = {
    "answer_probability": AnswerProbability.in_words,
    "option_probability": OptionProbability.in_words,
    "truth_ratio_near_one": TruthRatioNearOne.in_words,
    "truth_ratio_true_better": TruthRatioTrueBetter.in_words,
    "truth_ratio_true_share": TruthRatioTrueShare.in_words,
    "extraction_strength": ExtractionStrength.in_words,
    "exact_memorization": ExactMemorization.in_words,
    "rouge_l_recall": RougeLRecall.in_words,
    "rouge_l_f": RougeLF.in_words,
    "fluency": Fluency.in_words,
}
_OF_MODELS = {
    "forget_quality": ForgetQuality.in_words,
    "forget_ks": "Largest distance between the distributions of its truth ratios and those of a model that never knew.",
    "forget_degree": "How near what it knows of what must go is to a model that never knew; less counts as more does.",
    "retain_utility": "How near what it knows of what must stay is to a model that never knew; less counts as more does.",
    "model_utility": ModelUtility.in_words,
}
_DISTANCE = "retain_model_distance"
DEFINITIONS = {
    **_OF_QUESTIONS,
    **_OF_MODELS,
    _DISTANCE: "How far likelihoods per token are from those of a model that never knew, in nats.",
}
_LESS_MEANS_KNOWN = ("truth_ratio_near_one", "forget_quality", "forget_degree")
_ON_RETAIN = ("retain_utility", "model_utility")


def found_in(scores: TofuScores, retained: TofuScores, probes: Mapping[str, Probe]) -> list[Observation]:
    """What is observed, given the scores of the questions and those of a retain model."""
    observations: list[Observation] = []
    for split in scores:
        for name, values in _by_name(scores[split]).items():
            # The texts once: a report is long enough.
            texts = {"texts": list(scores[split]["texts"])} if name == "rouge_l_recall" else {}
            observations += observations_of(split, probes[split], name, values, **_about(name), **texts)
    return observations + (_compared(scores, retained, probes) if "forget" in scores else [])


def _compared(scores: TofuScores, retained: TofuScores, probes: Mapping[str, Probe]) -> list[Observation]:
    values = tofu_summary(scores, retained)
    whole = [
        Observation(metric=name, split="retain" if name in _ON_RETAIN else "forget", value=values[name], **_about(name))
        for name in _OF_MODELS
        if name in values
    ]
    far = distances(scores["forget"], retained["forget"])
    return whole + observations_of("forget", probes["forget"], _DISTANCE, far, higher_means_known=True, bounds=None)


def _by_name(of: Mapping[str, list[Any]]) -> dict[str, list[float]]:
    found = {name: of[name] for name in _OF_QUESTIONS if name in of}
    if "truth_ratio" in of:
        ratios = torch.tensor(of["truth_ratio"], dtype=torch.float64)
        found |= {name: form(ratios).tolist() for name, form in _RATIOS.items()}
    return found


def _about(name: str) -> dict[str, Any]:
    return {"higher_means_known": name not in _LESS_MEANS_KNOWN, "bounds": (0.0, 1.0)}
