from torch import Tensor
from typing_extensions import override

from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._states import confusion, need_layers, need_original_layers
from lightning_unlearn.prediction import Likelihood, Prediction


class MLPConfuse(Objective):
    r"""Turn what the MLPs add to the residual stream away from what they added in the original model.

    .. math:: \frac{1}{L} \sum_l \frac{1}{N} \sum_n
        \frac{\max(0, \langle o_{nl}, o^\mathrm{ref}_{nl} \rangle)}{\bigl(\frac{1}{N} \sum_m
        \|o^\mathrm{ref}_{ml}\|\bigr)^2}

    with outputs :math:`o` of several MLPs, each at the tokens of the answers. A token whose output is at right angles
    to the original's, or beyond, is left alone. The dot product has a gradient at the start, unlike the cosine of
    :class:`RepresentationRerouting`, of which this is the better defined relative.

    Needs the MLPs' outputs: ``readout=LayersReadout([r"layers\.[2-5]\.mlp"])``. The authors take the second quarter of
    the layers, and run no later ones. What must stay is held by :class:`ActivationMatch` at a later block.

    Example:
        >>> import torch
        >>> label = torch.tensor([0])
        >>> outputs = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])  # of one token, at two layers
        >>> said = Prediction(torch.zeros(1, 0), label, label, batch_size=1, features=outputs)
        >>> MLPConfuse()(said, said)
        tensor(1.)

    References:
        Sondej and Yang, `Collapse of Irrelevant Representations <https://arxiv.org/abs/2509.11816>`_ (CIR), 2025, and
        its public code, where it is called ``mlp_confuse``.
    """

    needs_reference = True
    needs_reference_logits = True

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        outputs = need_layers(self, student)
        return confusion(outputs, need_original_layers(self, outputs, need_likelihood(self, student, reference)))
