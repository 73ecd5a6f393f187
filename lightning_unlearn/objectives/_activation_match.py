from torch import Tensor
from typing_extensions import override

from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._states import mean_per_example, need_layers, need_original_layers
from lightning_unlearn.prediction import Likelihood, Prediction


class ActivationMatch(Objective):
    r"""Keep hidden states as in the original model: the retain term of :class:`RMU`.

    .. math:: \mathbb{E}_i \frac{1}{|y_i|} \sum_{t \in y_i} \frac{1}{D} \| h_t - h^\mathrm{ref}_t \|^2

    with the mean over the examples that have supervised rows, and over layers, if there are several. Needs hidden states of
    both: ``UnlearningModule(retain=ActivationMatch(), retain_readout=HiddenStateReadout("layers.7"))``, or
    :class:`LayersReadout`.

    Example:
        >>> import torch
        >>> def predicted(states):
        ...     return Prediction(states[:, :0], torch.tensor([0]), torch.tensor([0]), batch_size=1, features=states)
        >>> ActivationMatch()(predicted(torch.ones(1, 4)), predicted(torch.zeros(1, 4)))
        tensor(1.)

    References:
        Li et al., `The WMDP Benchmark <https://arxiv.org/abs/2403.03218>`_, 2024, section 4; the mean per example is that
        of OpenUnlearning, ``EMBED_DIFF`` there.
    """

    needs_reference = True
    needs_reference_logits = True

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        states = need_layers(self, student)
        original = need_original_layers(self, states, need_likelihood(self, student, reference))
        return mean_per_example((states - original).square().mean((1, 2)), student)
