from __future__ import annotations

import math
from dataclasses import replace

import torch
from robustness_parts._method import Method
from robustness_parts._setting import Setting
from torch import nn

ORIGINAL = Method("original", {"control": "original"})
RETAIN_ONLY = Method("retain-only", {"control": "retain-only"})
NOISE = Method("noise of equal norm", {"control": "noise"})
COLLAPSE = Method("ascent to collapse", {"control": "collapse"})
CONTROLS = (ORIGINAL, RETAIN_ONLY, NOISE, COLLAPSE)

ASCENT = Method("GA", {"unlearn": {"objective": {"GradientAscent": {}}, "projector": {"WeightedSum": {"retain": 0.0}}}})


def boundless(setting: Setting) -> Setting:
    """The same without a budget: ascent goes on until the network is destroyed."""
    return replace(setting, kl=math.inf)


@torch.no_grad()
def add_noise_(network: nn.Module, moved: nn.Module, seed: int) -> float:
    """Move each weight at random, as far in each tensor as ``moved`` is from ``network``. Returns how far in all."""
    generator = torch.Generator().manual_seed(seed)
    squared = 0.0
    others = dict(moved.named_parameters())
    for name, weight in network.named_parameters():
        length = float((others[name] - weight).double().norm())
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight += noise * (length / float(noise.double().norm()))
        squared += length**2
    return math.sqrt(squared)
