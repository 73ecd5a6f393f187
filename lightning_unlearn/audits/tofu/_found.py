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
from lightning_unlearn.metrics import ExactMemorization, ExtractionStrength
from lightning_unlearn.observation import Observation

_RATIOS: dict[str, Callable[[Tensor], Tensor]] = {
    "truth_ratio_near_one": near_one,
    "truth_ratio_true_better": true_better,
    "truth_ratio_true_share": true_share,
}
_OF_QUESTIONS = {
    "answer_probability": "The probability of the right answer, as the geometric mean over its tokens.",
    "option_probability": "The right answer's share of its probability and that of wrong answers to the same question.",
    "truth_ratio_near_one": "How little the model prefers the right answer to wrong ones, or wrong ones to it; 1 is not at all.",
    "truth_ratio_true_better": "How far the right answer is ahead of wrong ones; 0 if it is not.",
    "truth_ratio_true_share": "The right answer's share of its probability and the mean of wrong ones; 0.5 is no preference.",
    "extraction_strength": ExtractionStrength.in_words,
    "exact_memorization": ExactMemorization.in_words,
    "rouge_l_recall": "The share of the right answer's words, as stems, that the model says, in the same order.",
    "rouge_l_f": "What the model says has in common with the right answer, in the same order, as a share of both.",
    "fluency": "How little the model's own answers repeat pairs and triples of words; 0 is one word again and again.",
}
_OF_MODELS = {
    "forget_quality": "Chance of truth ratios as different as these from a model's that never knew, if it were no different.",
    "forget_ks": "Largest distance between the distributions of its truth ratios and those of a model that never knew.",
    "forget_degree": "How near what it knows of what must go is to a model that never knew; less counts as more does.",
    "retain_utility": "How near what it knows of what must stay is to a model that never knew; less counts as more does.",
    "model_utility": "Harmonic mean of nine numbers about what must stay; 0 if one of them is.",
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
            observations += observations_of(split, probes[split], name, values, **_about(name))
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
