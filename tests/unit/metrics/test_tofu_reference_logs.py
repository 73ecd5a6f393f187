"""The official logs of TOFU's Llama-2-7B, fine-tuned on all authors and on nine in ten: their numbers from their values."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from lightning_unlearn.functional.two_samples import kolmogorov_smirnov
from lightning_unlearn.metrics import AnswerText, OptionProbability, RougeLRecall, TokenNLL, TruthRatio
from lightning_unlearn.prediction import KnownLikelihood

SPLITS = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
MODELS = ("full", "retain90")
every_log = pytest.mark.parametrize(("model", "split"), [(model, split) for model in MODELS for split in SPLITS])
# Their values are float32: losses near 10 are known to 5e-7, and so are the logarithms of ratios.
FLOAT32 = {"rtol": 2e-6, "atol": 0.0}


def values(data_folder: Path, model: str, split: str) -> dict[str, list[Any]]:
    file = data_folder / "tofu_reference_logs" / f"llama2-7b_{model}_eval_log_aggregated.json.gz"
    of_split = json.loads(gzip.decompress(file.read_bytes()))[SPLITS[split]]
    rows = list(of_split["avg_gt_loss"])
    assert len(rows) == {"real_authors": 100, "world_facts": 117}.get(split, 300)
    return {name: [by_row[row] for row in rows] for name, by_row in of_split.items()}


def tensor(logged: list[Any]) -> torch.Tensor:
    return torch.tensor(logged, dtype=torch.float64)


def answers_in_a_row(right: list[float], wrong: list[list[float]]) -> KnownLikelihood:
    """One row for each answer, which is how a loss per token comes back as it is."""
    nll = torch.cat([tensor(right)[:, None], tensor(wrong)], 1).flatten()
    return KnownLikelihood(nll, torch.arange(len(nll)), len(nll))


@every_log
def test_losses_per_token_are_sums_over_tokens(data_folder: Path, model: str, split: str) -> None:
    logged = values(data_folder, model, split)
    tokens = torch.tensor(logged["num_token_gt"])
    per_row = (tensor(logged["gt_loss"]) / tokens).repeat_interleave(tokens)
    metric = TokenNLL()
    metric.update(KnownLikelihood(per_row, torch.arange(len(tokens)).repeat_interleave(tokens), len(tokens)))
    assert_close(metric.scores(), tensor(logged["avg_gt_loss"]), **FLOAT32)


@every_log
def test_truth_ratios(data_folder: Path, model: str, split: str) -> None:
    logged = values(data_folder, model, split)
    metric = TruthRatio(wrong=len(logged["average_perturb_loss"][0]))
    metric.update(answers_in_a_row(logged["avg_paraphrased_loss"], logged["average_perturb_loss"]))
    assert_close(metric.scores(), tensor(logged["truth_ratio"]), **FLOAT32)


@pytest.mark.parametrize("split", ["real_authors", "world_facts"])
@pytest.mark.parametrize("model", MODELS)
def test_probabilities_among_options(data_folder: Path, model: str, split: str) -> None:
    logged = values(data_folder, model, split)
    metric = OptionProbability(wrong=3)
    metric.update(answers_in_a_row(logged["avg_gt_loss"], logged["average_perturb_loss"]))
    assert_close(-metric.scores().log(), tensor(logged["normalized_gt_loss"]), rtol=1e-13, atol=0)


@every_log
def test_rouge_recall_to_the_last_digit(data_folder: Path, model: str, split: str) -> None:
    logged = values(data_folder, model, split)
    metric: AnswerText = RougeLRecall(compat="open-unlearning")
    metric.update(*zip(*[(said, right) for _, said, right in logged["generated_text"]], strict=True))
    assert metric.scores().tolist() == logged["rougeL_recall"]


@pytest.mark.parametrize("model", MODELS)
def test_letters_of_other_scripts_change_rouge_of_two_answers_in_three_hundred(data_folder: Path, model: str) -> None:
    logged = values(data_folder, model, "retain")
    ours, theirs = RougeLRecall(), RougeLRecall(compat="open-unlearning")
    for metric in (ours, theirs):
        metric.update(*zip(*[(said, right) for _, said, right in logged["generated_text"]], strict=True))
    assert (ours.scores() != theirs.scores()).sum() == 2
    assert_close(ours.compute(), theirs.compute(), rtol=0, atol=2e-3)


def test_forget_quality_of_the_model_that_knows_all(data_folder: Path) -> None:
    ratios = {}
    for model in MODELS:
        logged = values(data_folder, model, "forget")
        metric = TruthRatio(wrong=5)
        metric.update(answers_in_a_row(logged["avg_paraphrased_loss"], logged["average_perturb_loss"]))
        ratios[model] = metric.scores().tolist()
    test = kolmogorov_smirnov(ratios["full"], ratios["retain90"])
    assert f"{test.p_value:.3e}" == "1.834e-21"
    assert test.statistic == pytest.approx(119 / 300)
    assert kolmogorov_smirnov(ratios["retain90"], ratios["retain90"]).p_value == 1.0
