"""The numbers of TOFU's tables, from scores of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from lightning_unlearn.audits.tofu._questions import TofuScores, refuse_other_questions
from lightning_unlearn.functional.truth_ratio import near_one
from lightning_unlearn.functional.two_samples import symmetric_degree
from lightning_unlearn.metrics import ForgetQuality, ModelUtility
from lightning_unlearn.metrics._model_utility import SPLITS


def tofu_summary(scores: TofuScores, retain_scores: TofuScores) -> dict[str, float]:
    r"""The numbers of TOFU's tables, and how far a model is from one that never knew.

    - ``forget_quality``: p-value of a two-sample Kolmogorov-Smirnov test of the truth ratios, against the retain model's;
      ``forget_ks`` is the distance it tests, in [0, 1].
    - ``forget_truth_ratio``: mean of :math:`\min(R, 1/R)`.
    - ``model_utility``: harmonic mean of nine numbers, which are there too: probability (among the options for real authors
      and world facts), ROUGE-L recall, and mean of :math:`\max(0, 1 - R)`, each on ``retain``, ``real_authors`` and
      ``world_facts``. 0 if one of them is 0. Left out if a split is missing.
    - ``forget_degree`` and ``retain_utility``: how near the product of probability, ROUGE-L recall and share of right tokens
      is to the retain model's, to the power of 1/3, on ``forget`` and on ``retain``. Too little counts as too much.
    - ``retain_model_distance``: mean of :math:`|\ln p - \ln p_\mathrm{retain}|` over the forget questions, of the answer's
      probability per token, in nats; 0 for the retain model itself.
    - ``forget_...`` and ``retain_fluency``: means of the scores.

    Args:
        scores: Of the model, from :func:`tofu_scores`.
        retain_scores: Of a model that was trained without what must go, on the same probes.

    Raises:
        ValueError: If there are no forget scores, no scores of a retain model, or of other questions.

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024; `FIT <https://arxiv.org/abs/2601.21682>`_, 2026,
        for the symmetric degrees; the distance is ours.
    """
    refuse_missing(scores, retain_scores)
    forget, retained = scores["forget"], retain_scores["forget"]
    quality = ForgetQuality(retained["truth_ratio"], sync_on_compute=False)  # scores are gathered
    quality.update(_tensor(forget["truth_ratio"]))
    return {
        "forget_quality": float(quality.compute()),
        "forget_ks": float(quality.distance()),
        "forget_truth_ratio": _mean_near_one(forget["truth_ratio"]),
        **{f"forget_{short}": fmean(forget[name]) for short, name in _SHORT.items()},
        "forget_degree": degree(scores, retain_scores, "forget"),
        "retain_model_distance": fmean(distances(forget, retained)),
        **_of_what_stays(scores, retain_scores),
    }


_SHORT = {
    "probability": "answer_probability",
    "rouge_l_recall": "rouge_l_recall",
    "rouge_l_f": "rouge_l_f",
    "extraction_strength": "extraction_strength",
    "exact_memorization": "exact_memorization",
    "fluency": "fluency",
}


def _of_what_stays(scores: TofuScores, retain_scores: TofuScores) -> dict[str, float]:
    found: dict[str, float] = {}
    if "retain" in scores:
        found["retain_fluency"] = fmean(scores["retain"]["fluency"])
        if "retain" in retain_scores:
            found["retain_utility"] = degree(scores, retain_scores, "retain")
    if (utility := utility_of(scores)) is not None:
        found |= {"model_utility": float(utility.compute()), **utility.parts()}
    return found


def utility_of(scores: TofuScores) -> ModelUtility | None:
    """The model utility and its nine numbers; none if a split, or its wrong answers, are missing."""
    if any("truth_ratio" not in scores.get(split, {}) for split in SPLITS):
        return None
    found = ModelUtility(sync_on_compute=False)  # scores are gathered
    for split in SPLITS:
        of = scores[split]
        probability = of["answer_probability" if split == "retain" else "option_probability"]
        columns = (probability, of["rouge_l_recall"], of["truth_ratio"])
        found.update(split, *map(_tensor, columns))
    return found


def degree(scores: TofuScores, retain_scores: TofuScores, split: str) -> float:
    """How near the overall score of a split is to the retain model's, in [0, 1]."""
    return symmetric_degree(_overall(scores[split]), _overall(retain_scores[split]))


def _overall(of: Mapping[str, Sequence[float]]) -> float:
    product = fmean(of["answer_probability"]) * fmean(of["rouge_l_recall"]) * fmean(of["exact_memorization"])
    return float(product ** (1 / 3))


def distances(of: Mapping[str, Sequence[float]], retained: Mapping[str, Sequence[float]]) -> list[float]:
    """How far each answer's likelihood per token is from the retain model's, in nats."""
    return [abs(own - other) for own, other in zip(of["token_nll"], retained["token_nll"], strict=True)]


def _mean_near_one(ratios: Sequence[float]) -> float:
    return float(near_one(_tensor(ratios)).mean())


def _tensor(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def refuse_missing(scores: TofuScores, retain_scores: TofuScores) -> None:
    """Refuse to compare with nothing, or with scores of other questions."""
    for whose, of in (("the model", scores), ("the retain model", retain_scores)):
        if "truth_ratio" not in (of or {}).get("forget", {}):
            raise ValueError(
                f"There should be scores of {whose} on `forget`, with truth ratios. Found "
                f"{sorted((of or {}).get('forget', {})) or 'none'}. Make them by `tofu_scores`, with the probes `forget` "
                "and `forget_perturbed`; a retain model is one that was trained without what must go."
            )
    refuse_other_questions(scores, retain_scores)
