from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.principal import common_directions, without
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._states import confusion, need_layers, need_original_layers
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.runtime import on_every_rank


class MCU(Objective):
    r""":class:`MLPConfuse` without what all outputs of a layer have in common.

    The mean and the first principal components of the *original* outputs are taken out of :math:`o` and of
    :math:`o^\mathrm{ref}` before the two are compared, and before lengths are taken. What is left is particular to a
    token, and turning it away disturbs other texts less.

    The directions come from the first ``rows`` tokens that must go, of all ranks together: with each batch until then
    they are computed anew, and after that they stay. They are in the checkpoint. Mean and components are made
    orthonormal *together*: taken out one after the other, a part of the mean comes back, since it is not orthogonal to
    the components.

    Needs ``readout=LayersReadout([r"layers\.[2-5]\.mlp"])``; at a block, ``LayersReadout(["layers.5"])``, it is the
    authors' variant for residual streams.

    Collective until the rows are there, if there are several ranks.

    Args:
        components: How many principal components are taken out beside the mean; 0 for the mean alone. Fewer, if there
        are
            too few rows.
        rows: How many tokens they are computed of.

    Example:
        >>> labels = torch.zeros(3, dtype=torch.int64)
        >>> outputs = torch.tensor([[[5.0, 1.0]], [[5.0, -1.0]], [[5.0, 0.0]]])  # of three tokens, at one layer
        >>> said = Prediction(torch.zeros(3, 0), labels, labels, batch_size=1, features=outputs)
        >>> MCU(components=0)(said, said)  # of (1, -1, 0): the mean of squares over the squared mean of lengths
        tensor(1.5000)

    References:
        Public code of `MCU <https://arxiv.org/abs/2605.11685>`_, 2026, after `Collapse of Irrelevant Representations
        <https://arxiv.org/abs/2509.11816>`_, 2025. Of which tokens it gathers is ours.
    """

    needs_reference = True
    needs_reference_logits = True

    def __init__(self, components: int = 7, rows: int = 512) -> None:
        super().__init__()
        check_whole("components", components, least=0)
        check_whole("rows", rows)
        self.components = components
        self.rows = rows
        self._seen: Tensor | None = None
        self._directions: Tensor | None = None

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        outputs = need_layers(self, student)
        original = need_original_layers(self, outputs, need_likelihood(self, student, reference))
        directions = self._common(original).to(outputs)
        return confusion(without(directions, outputs), without(directions, original))

    def _common(self, original: Tensor) -> Tensor:
        """What is taken out, ``[L, D, k]``."""
        if self._directions is None or self._seen is not None:
            # On the CPU, so that it costs no memory elsewhere, and a checkpoint can be read on any device.
            fresh = on_every_rank(original.detach().cpu())
            seen = torch.cat(fresh if self._seen is None else [self._seen, *fresh])[: self.rows]
            self._directions = common_directions(seen.transpose(0, 1), self.components)
            self._seen = seen if len(seen) < self.rows else None
        return self._directions

    @override
    def start_anew(self) -> None:
        """The directions are of one network."""
        self._seen = self._directions = None

    @override
    def get_extra_state(self) -> dict[str, Any]:
        """The directions, and as long as more rows are to come, those that were seen."""
        return {"seen": self._seen, "directions": self._directions}

    @override
    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on as a checkpoint did."""
        self._seen, self._directions = state["seen"], state["directions"]
