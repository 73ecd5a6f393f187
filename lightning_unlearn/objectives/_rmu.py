from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._growing import fit_sizes
from lightning_unlearn.objectives._states import mean_per_example, need_states
from lightning_unlearn.prediction import Likelihood, Prediction


class RMU(Objective):
    r"""Representation misdirection: steer the hidden states of what must go to one random vector. The forget term.

    .. math:: \mathbb{E}_i \frac{1}{|y_i|} \sum_{t \in y_i} \frac{1}{D} \| h_t - c \|^2, \quad
        c = s \, u / \|u\|, \; u \sim \mathrm{Uniform}[0, 1)^D

    with the mean over the examples that have supervised rows. What must stay is held by :class:`ActivationMatch` at the same
    layer. Needs hidden states: ``readout=HiddenStateReadout("layers.7")``.

    The control vector :math:`c` is drawn on the first batch, when the width is known, from ``seed`` and the width alone, and
    is in the checkpoint.

    Args:
        steering_coefficient: The length :math:`s` of the control vector, positive. It should be large compared with the
            norm of the layer's hidden states.
        seed: Of the direction.

    Example:
        >>> states, label = torch.zeros(1, 4), torch.tensor([0])
        >>> prediction = Prediction(states[:, :0], label, label, batch_size=1, features=states)
        >>> RMU(steering_coefficient=2.0)(prediction)  # 2 ** 2 / 4
        tensor(1.)

    References:
        Li et al., `The WMDP Benchmark <https://arxiv.org/abs/2403.03218>`_, 2024, section 4; the mean per example is that
        of OpenUnlearning.
    """

    control: Tensor

    def __init__(self, steering_coefficient: float = 20.0, seed: int = 0) -> None:
        super().__init__()
        check_positive("steering_coefficient", steering_coefficient)
        self.steering_coefficient = steering_coefficient
        self.seed = seed
        self.register_buffer("control", torch.empty(0))

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        states = need_states(self, student)
        if not self.control.numel():
            self.control = self._draw(states.shape[1]).to(states.device)
        if len(self.control) != states.shape[1]:
            raise ValueError(
                f"`RMU` should see hidden states of {len(self.control)} dimensions, as before. Found {states.shape[1]}: is "
                "the checkpoint of another network or layer?"
            )
        return mean_per_example((states - self.control.to(states.dtype)).square().mean(-1), student)

    @override
    def start_anew(self) -> None:
        """Perhaps the next fit is of another width."""
        self.control = torch.empty(0)

    def _draw(self, width: int) -> Tensor:
        direction: Tensor = torch.rand(width, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        control: Tensor = self.steering_coefficient * direction / direction.norm()
        return control.float()

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        fit_sizes(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
