from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._states import need_layers, need_original_layers
from lightning_unlearn.prediction import Likelihood, Prediction


class RepresentationRerouting(Objective):
    r"""Circuit breakers: turn hidden states at right angles to the original's. A baseline to compare with, no more.

    .. math:: \frac{1}{L} \sum_l \frac{1}{N} \sum_n \max(0, \cos(h_{nl}, h^\mathrm{ref}_{nl})) + w \,
        \frac{1}{L} \sum_l \mathrm{mean}_{i \ne j} \max(0, \cos(\bar h_{il}, \bar h_{jl}))

    with the mean :math:`\bar h_i` over the tokens of an answer. The second term, of the orthogonal variant, turns the
    answers of a batch away from one another as well.

    **It is stationary at the start**: the cosine of a vector with itself has no gradient. Only the second term, or the
    retain side, moves the network away from there, and with an optimizer that divides by its own scale the first steps
    follow rounding. :class:`MLPConfuse` has no such start. In public runs with this objective the knowledge was back
    after 5 to 100 steps of relearning wherever the model was still useful.

    Needs ``readout=LayersReadout([r"layers\.\d+"])``. What must stay is held by :class:`ActivationDrift`, as published,
    or :class:`ActivationMatch`. The published schedule is ``projector=LinearSchedule(...)``.

    Args:
        orthogonal: The weight :math:`w`, not negative; 0 is the original method.

    Example:
        >>> import torch
        >>> label = torch.tensor([0])
        >>> said, original = (
        ...     Prediction(torch.zeros(1, 0), label, label, batch_size=1, features=torch.tensor([[states]]))
        ...     for states in ([1.0, 1.0], [2.0, 0.0])
        ... )
        >>> RepresentationRerouting()(said, original)
        tensor(0.7071)

    References:
        Zou et al., `Improving Alignment and Robustness with Circuit Breakers <https://arxiv.org/abs/2406.04313>`_,
        2024; the orthogonal variant is EleutherAI's, in the public code of ``unlearn``, which ramps its weight up.
    """

    needs_reference = True
    needs_reference_logits = True

    def __init__(self, orthogonal: float = 0.0) -> None:
        super().__init__()
        check_not_negative("orthogonal", orthogonal)
        self.orthogonal = orthogonal

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        states = need_layers(self, student)
        original = need_original_layers(self, states, need_likelihood(self, student, reference))
        rerouted = mean_or_zero(F.cosine_similarity(states, original, dim=-1).relu())
        return rerouted + self.orthogonal * _likeness(_pooled(states, student)) if self.orthogonal else rerouted


def _pooled(states: Tensor, prediction: Prediction) -> Tensor:
    """The direction of each answer's mean at each layer, ``[B', L, D]``, of the answers that have rows."""
    # Directions of sums are those of means.
    sums = states.new_zeros(prediction.batch_size, *states.shape[1:]).index_add(0, prediction.example, states)
    return F.normalize(sums[prediction.supervised()], dim=-1)


def _likeness(directions: Tensor) -> Tensor:
    """Mean positive cosine between two different answers, over pairs and layers."""
    cosines = (directions.transpose(0, 1) @ directions.permute(1, 2, 0)).relu()
    count = len(directions)
    return (cosines.sum() - cosines.diagonal(dim1=1, dim2=2).sum()) / max(len(cosines) * count * (count - 1), 1)
