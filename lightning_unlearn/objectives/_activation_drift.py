from torch import Tensor
from typing_extensions import override

from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._states import mean_per_example, need_layers, need_original_layers
from lightning_unlearn.prediction import Likelihood, Prediction


class ActivationDrift(Objective):
    r"""Keep hidden states as in the original model, by their distance: the retain term of circuit breakers.

    .. math:: \mathbb{E}_i \frac{1}{|y_i|} \sum_{t \in y_i} \frac{1}{L} \sum_l \| h_{tl} - h^\mathrm{ref}_{tl} \|

    with the mean over the examples that have supervised rows. The distance is not squared. **So its gradient jumps**:
    it is zero at the start, and of full size once the states have moved by a millionth. :class:`ActivationMatch`, whose
    gradient grows with the distance, is the better choice where no published number is to be reproduced.

    Example:
        >>> import torch
        >>> def predicted(states):
        ...     return Prediction(states[:, :0], torch.tensor([0]), torch.tensor([0]), batch_size=1, features=states)
        >>> ActivationDrift()(predicted(torch.ones(1, 4)), predicted(torch.zeros(1, 4)))
        tensor(2.)

    References:
        Zou et al., `Improving Alignment and Robustness with Circuit Breakers <https://arxiv.org/abs/2406.04313>`_,
        2024.
    """

    needs_reference = True
    needs_reference_logits = True

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        states = need_layers(self, student)
        original = need_original_layers(self, states, need_likelihood(self, student, reference))
        return mean_per_example((states - original).norm(dim=-1).mean(1), student)
