"""Gradients as another processor would round them: a test that hangs on their last digits fails here, and not first in CI.

`make jitter`, or `JITTER=2 PYTHONPATH=tests pytest -p _jitter -m slow tests/test_docs.py`; another number, other digits.
Each gradient is multiplied by the same factors near 1 at every step, so two equal fits stay equal to the bit.
"""

import os
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

SEED = int(os.environ.get("JITTER", "1"))


def rounded(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        if type(p.grad) is torch.Tensor and p.grad.layout is torch.strided:
            noise = torch.randn(p.grad.shape, generator=torch.Generator().manual_seed(SEED))
            p.grad.mul_(1 + 2 * torch.finfo(torch.float32).eps * noise.to(p.grad))


register_optimizer_step_pre_hook(rounded)
