from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.projectors._base import Projector

_NOT_OF_A_GRAMIAN = {"ExcessMTLWeighting", "MoDoWeighting", "SDMGradWeighting"}


class TorchJD(Projector):
    """Any Gramian weighting of the library TorchJD: UPGrad, MGDA, CAGrad and others.

    Every row counts as a task of its own. Weights are used as they come: most weightings average, so that two rows
    without conflict get one half each, and plain SGD takes half the step. Some can drop a row (MGDA does, once the forget
    gradient vanishes). ``pip install "lightning-unlearn[torchjd]"`` brings the library, and the solvers that UPGrad,
    DualProj, CAGrad and FairGrad need.

    What a weighting promises holds for the merged gradient, not for the step that another optimizer makes of it: in a toy
    under AdamW, 183 of 480 steps raised the retain loss to first order although gradients had been projected. It may
    also fail for short gradients: UPGrad by default projects nothing once their squared lengths sum to less than 1e-4;
    give it a ``QuadprogProjector`` with a smaller ``norm_eps``.

    Weightings that draw random numbers (PCGrad's order) draw the same on every rank, and leave the global generator as it
    was. The running averages of some (GradVac) begin anew with each fit, also when one is resumed.

    Args:
        weighting: As ``torchjd.aggregation.UPGradWeighting()``; by ``class_path`` in YAML.

    Raises:
        ImportError: If `torchjd` is not installed.
        TypeError: If it is not a weighting of a Gramian.

    Example:
        >>> from torchjd.aggregation import MGDAWeighting
        >>> TorchJD(MGDAWeighting())(torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64)))
        tensor([0.7500, 0.2500], dtype=torch.float64)

    References:
        Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization <https://arxiv.org/abs/2406.16232>`_, 2024.
    """

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        refuse_unsupported(weighting)
        self.weighting = weighting

    @override
    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Begin anew, whatever is in the state: only half of what a weighting remembers is."""
        for part in self.weighting.modules():
            if callable(reset := getattr(part, "reset", None)):
                reset()
        return super().load_state_dict({}, strict=False)

    @override
    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Tensor:
        """The weighting's own weights, in float64."""
        on_cpu = gramian.detach().cpu().double()
        # All ranks have the same Gramian, but generators in different states. Seeded by the Gramian, they draw the same;
        # otherwise replicas would drift apart.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(zlib.crc32(on_cpu.numpy().tobytes()))
            weights: Tensor = self.weighting(on_cpu)
        if not bool(weights.isfinite().all()):
            raise FloatingPointError(
                f"The weights should be finite. `{type(self.weighting).__name__}` found {weights.tolist()} for the Gramian "
                f"{on_cpu.tolist()}. Use `HalfSpace`, which takes gradients of any length, or a larger `eps` if it has one."
            )
        return weights.to(gramian)


def refuse_unsupported(weighting: nn.Module) -> None:
    """Refuse weightings of other matrices: given a Gramian, they would silently compute something else."""
    try:
        from torchjd.aggregation import Weighting
    except ImportError as error:
        raise ImportError(
            '`TorchJD` should find the package `torchjd`. It is missing: `pip install "lightning-unlearn[torchjd]"`, '
            "which brings the solvers of its weightings, too."
        ) from error
    if not isinstance(weighting, Weighting):
        raise TypeError(
            "`weighting` should be a weighting from `torchjd.aggregation`; their names end in `Weighting`. "
            f"Found `{type(weighting).__name__}`."
        )
    for part in weighting.modules():
        if type(part).__name__ in _NOT_OF_A_GRAMIAN:
            raise TypeError(
                f"`weighting` should need nothing but a Gramian. Found `{type(part).__name__}`, which needs Jacobians, or "
                "the gradients of two independent batches. Use `UPGradWeighting` or `PCGradWeighting`."
            )
