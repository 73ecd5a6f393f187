from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero, place_in_example
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._growing import fit_sizes
from lightning_unlearn.objectives._pairs import need_pair
from lightning_unlearn.objectives._states import need_layers
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import Halves, halves_of_examples


class ProbeAlignment(Objective):
    r"""Close the gap between memorised and control texts along the direction by which a probe tells them apart.

    .. math:: \mathbb{E}_i \frac{1}{L} \sum_{l=1}^{L} \bigl( (h^\mathrm{m}_{i,l} - h^\mathrm{c}_{i,l}) \cdot w_l \bigr)^2

    over the pairs of which both have supervised rows. :math:`h` is the hidden state at the last supervised token of each,
    :math:`w_l` a unit vector: the weights of a logistic regression at layer :math:`l`. The gradient with respect to a hidden
    state has no component across :math:`w_l`. Both sides move; what must stay is held by the fit's own retain loss.

    Needs pairs and hidden states: :class:`PairedData` with controls as companions,
    ``readout=PairedReadout(LayersReadout(["layers.3", "layers.4"]))``; and the callback :class:`RefitProbeDirections`, which
    fits :math:`w_l` now and then.

    This hides knowledge from a linear probe of these layers; it is not shown to remove it. A probe that is trained and
    tested by leave-one-out on the pairs that were aligned here reads far below chance, even where nothing was erased: judge
    by other pairs only.

    Example:
        >>> from lightning_unlearn.readouts import PairedPrediction
        >>> states, label = torch.tensor([[3.0, 5.0], [1.0, 9.0]]), torch.tensor([0, 0])
        >>> pair = PairedPrediction(states[:, :0], label, torch.tensor([0, 1]), batch_size=2, features=states)
        >>> objective = ProbeAlignment()
        >>> objective.align_along(torch.tensor([[1.0, 0.0]]))
        >>> objective(pair)
        tensor(4.)

    References:
        Probe-Geometry Alignment, ``Rupawheatly/MLDU2`` on GitHub, whose code trains adapters, refits every 25 epochs, and
        audits on the pairs it has aligned. The default pool of :class:`RefitProbeDirections` is that of the code.
    """

    directions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def align_along(self, directions: Tensor) -> None:
        """Align along ``directions [L, D]``, a unit vector for each layer."""
        self.register_buffer("directions", directions.detach().clone())

    def clear(self) -> None:
        """Have no directions, as a new one."""
        self.align_along(torch.empty(0, 0))

    def last_states(self, paired: Prediction) -> Halves[Tensor]:
        """Hidden states at the last row of each example, ``[P, L, D]`` of each side, of pairs in which both have rows."""
        need_pair(self, paired, "Refusals()")
        states, rows = need_layers(self, paired), paired.rows_per_example()
        is_last = place_in_example(paired.example) == rows[paired.example] - 1
        place = torch.zeros_like(rows)
        place[paired.example[is_last]] = is_last.nonzero()[:, 0]
        sides, supervised = halves_of_examples(place), halves_of_examples(paired.supervised())
        both = supervised.forget & supervised.companion
        return Halves(states[sides.forget[both]], states[sides.companion[both]])

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        last = self.last_states(student)
        gap = last.forget - last.companion
        if not self.directions.numel():
            raise ValueError(
                "`ProbeAlignment` should know along which directions a probe reads. Found none. Add "
                "`RefitProbeDirections()` to the callbacks, or call `align_along`."
            )
        if self.directions.shape != gap.shape[1:]:
            raise ValueError(
                f"`ProbeAlignment` should see hidden states of the layers of its directions, "
                f"{tuple(self.directions.shape)}, [L, D]. Found {tuple(gap.shape[1:])}: is the checkpoint of another "
                "network or readout?"
            )
        return mean_or_zero((gap * self.directions.to(gap)).sum(-1).square().mean(-1))

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        fit_sizes(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
