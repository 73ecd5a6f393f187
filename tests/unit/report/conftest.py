"""A small report as a real run would make it: twenty authors, four attacks, one of which breaks the model."""

import numpy as np
import pytest

from lightning_unlearn.observation import Observation
from lightning_unlearn.report import assess

AUTHORS = [f"author {index:02d}" for index in range(20) for _ in range(10)]
STEPS = (0, 20, 40, 60, 80, 100, 120)
# (forget, retain) probability of the student over the run, then under each attack at the end of the run
FORGOTTEN = {0: 0.86, 20: 0.71, 40: 0.48, 60: 0.29, 80: 0.17, 100: 0.11, 120: 0.08}
KEPT = {0: 0.84, 20: 0.83, 40: 0.82, 60: 0.815, 80: 0.81, 100: 0.80, 120: 0.80}
RETURNED = {
    ("int8", "bits", 8): (0.01, 1.0),
    ("int4", "bits", 4): (0.28, 0.985),
    ("prune", "%", 50): (0.05, 0.62),
    **{
        ("relearn", "step", point): (share, 0.99)
        for point, share in ((1, 0.06), (2, 0.15), (5, 0.33), (10, 0.52), (20, 0.64))
    },
}
CONFIGS = {
    "int8": {"class_path": "lightning_unlearn.Quantize", "bits": 8},
    "int4": {"class_path": "lightning_unlearn.Quantize", "bits": 4, "group": 64},
    "prune": {"class_path": "lightning_unlearn.Prune", "share": 0.5},
    "relearn": {"class_path": "lightning_unlearn.Relearn", "steps": 20, "lr": 1e-3},
}

CONFIG = """trainer:
  max_steps: 120
  callbacks:
    - class_path: lightning_unlearn.Unlearn
      init_args:
        objective: lightning_unlearn.NPO
"""


class Examinees:
    """Examples whose scores lie around a level, with an offset per author and one per example."""

    def __init__(self, seed):
        self.noise = np.random.default_rng(seed)
        self.offset = self.per_author(0.3) + self.noise.normal(0, 0.25, 200)
        self.openness = self.per_author(0.25)  # how much more than others an author comes back

    def per_author(self, spread):
        return np.repeat(self.noise.normal(0, spread, 20), 10)

    def scores(self, level, back=0.0):
        logit = np.log(level / (1 - level)) + self.offset
        return 1 / (1 + np.exp(-logit - back * self.openness * 4 - self.noise.normal(0, 0.1, 200)))


def observed(examinees, split, level, step, back=0.0, **attack):
    probability = examinees.scores(level, back)
    shared = {"split": split, "step": step, "epoch": step // 20, "entities": AUTHORS, **attack}
    for metric, scores, up, bounds in (
        ("probability", probability, True, (0.0, 1.0)),
        ("token_nll", -np.log(probability), False, None),
    ):
        yield Observation(
            metric=metric,
            value=float(scores.mean()),
            scores=scores.tolist(),
            higher_means_known=up,
            bounds=bounds,
            **shared,
        )


@pytest.fixture(scope="session")
def observations():
    forget, retain = Examinees(1), Examinees(2)
    made = []
    for step in STEPS:
        subject = "original" if step == 0 else "unlearned"
        made += observed(forget, "forget", FORGOTTEN[step], step, subject=subject)
        made += observed(retain, "retain", KEPT[step], step, subject=subject)
        for (attack, unit, point), (share, left) in RETURNED.items():
            back = FORGOTTEN[step] + share * (FORGOTTEN[0] - FORGOTTEN[step])
            family = "quant" if unit == "bits" else attack
            config = CONFIGS[attack]
            how = {"attack": attack, "unit": unit, "point": point, "family": family, "attack_config": config}
            how["subject"] = subject
            made += [
                *observed(forget, "forget", back, step, back=share, **how),
                *observed(retain, "retain", left * KEPT[step], step, **how),
            ]
    return made


@pytest.fixture(scope="session")
def context():
    return {
        "run": {
            "device": "cpu",
            "strategy": "single_device",
            "world_size": 1,
            "precision": "32-true",
            "seed": 0,
            "wall_s": 312.4,
            "notes": ["The model was taught the facts in this run, so that there was something to forget."],
        },
        "models": {"student": {"source": "a Llama of 260 thousand parameters", "n_params": 260032, "dtype": "float32"}},
        "data": {
            "forget": {
                "name": "20 authors who asked to be removed",
                "n": 200,
                "content_hash": "sha256:6f1d2c0e",
                "description": "Ten questions about each of twenty invented authors: their birth, works and prizes.",
            },
            "retain": {"name": "180 other authors", "n": 200, "content_hash": "sha256:c07b91aa"},
        },
        "training": [
            {
                "step": step,
                "forget": 0.2 + 0.02 * step,
                "retain": 0.2 + 0.1 * np.exp(-step / 40),
                "cosine": -0.3 * np.exp(-step / 60),
            }
            for step in range(0, 121, 4)
        ],
        "config": CONFIG,
        "definitions": {
            "probability": "The geometric mean of the probabilities the model gives to the words of the true answer.",
            "token_nll": "The negative log-likelihood of the true answer per token, in nats.",
        },
    }


@pytest.fixture(scope="session")
def report(observations, context):
    return assess(observations, restored=True, draws=400, **context)
