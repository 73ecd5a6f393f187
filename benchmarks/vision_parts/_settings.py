from __future__ import annotations

import os
from pathlib import Path

from lightning_unlearn import ResNet20, TinyViT
from lightning_unlearn.data import IDXImages, ImageArchive
from vision_parts._world import Setting

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data"))
CIFAR = str(DATA / "cifar10" / "cifar10_subset_jpg.zip")
DIGITS = tuple(str(DATA / "mnist" / f"t10k-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1"))

SETTINGS = {
    "cifar10": Setting(
        name="cifar10",
        network=lambda classes, seed: ResNet20(classes, seed=seed),
        # Averaged down to 16 x 16, so that retraining takes a minute.
        train=ImageArchive(CIFAR, "train", size=16, most=200),
        test=ImageArchive(CIFAR, "test", size=16),
        # airplane and ship, automobile and truck, bird and frog, cat and dog, deer and horse
        groups=[[0, 8], [1, 9], [2, 6], [3, 5], [4, 7]],
        gone={"test": 1, "tune": 8},
        share=0.1,
        head="linear",
        wide=(),
        teach={"epochs": 12, "lr": 4e-3, "batch_size": 64},
        batch=(32, 64),
        steps=30,
        rates=(3e-4, 1e-3, 3e-3),
        seconds=0.09,
        size=2000,
    ),
    "mnist": Setting(
        name="mnist",
        network=lambda classes, seed: TinyViT(classes, seed=seed),
        train=IDXImages(*DIGITS, stop=3000),
        test=IDXImages(*DIGITS, start=3000, stop=5000),
        groups=[[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]],
        gone={"test": 3, "tune": 6},
        share=0.1,
        head="head",
        wide=("fc1", "fc2"),
        teach={"epochs": 30, "lr": 3e-3, "batch_size": 64},
        batch=(32, 64),
        steps=60,
        rates=(3e-4, 1e-3, 3e-3),
        seconds=0.012,
    ),
}
