import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.settings import check_not_negative, check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._states import mean_per_example, need_layers, need_original_layers
from lightning_unlearn.prediction import Likelihood, Prediction


class RepresentationDeviation(Objective):
    r"""Turn hidden states away from what they were: a reconstruction from a digest (KUDA).

    The paper's text and code could not be had; the start is ours.

    .. math:: \frac{1}{T} \, \mathbb{E}_i \frac{1}{|y_i|} \sum_{t \in y_i} \frac{1}{L} \sum_{l=1}^{L}
        \cos\bigl(h_{t,l}, \; h^\mathrm{ref}_{t,l} + \varepsilon \, \|h^\mathrm{ref}_{t,l}\| \, u_l\bigr)

    with the mean over the examples that have supervised rows, over a window of layers. In the original network the cosine
    with itself is at its maximum, and its gradient is zero: plain SGD would never move, and Adam would follow the sign of
    rounding errors. So the reference is moved a little along a random unit vector :math:`u_l`, drawn by ``seed``, the same
    on every device. The weights are not touched. The loss is least, :math:`-1/T`, where hidden states point the other way.

    Needs hidden states of both: ``readout=LayersReadout(["layers.3", "layers.4", "layers.5"])``, or one layer by
    :class:`HiddenStateReadout`. What must stay is held by the fit's own retain loss; the method's relaxed null space is
    :class:`SubspaceGuard` with :class:`NullSpace`.

    Args:
        temperature: :math:`T`, positive. If nothing is added to this loss, Adam takes the same steps at any temperature.
        jitter: :math:`\varepsilon`, not negative. At 0 the start is stationary.
        seed: Of the vectors.

    Example:
        >>> states, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> prediction = Prediction(states[:, :0], label, label, batch_size=1, features=states)
        >>> RepresentationDeviation(temperature=2.0, jitter=0.0)(prediction, prediction)
        tensor(0.5000)

    References:
        KUDA, `arXiv 2602.19275 <https://arxiv.org/abs/2602.19275>`_, 2026, by a digest.
    """

    needs_reference = True
    needs_reference_logits = True

    def __init__(self, temperature: float = 1.0, jitter: float = 1e-3, seed: int = 0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_not_negative("jitter", jitter)
        self.temperature = temperature
        self.jitter = jitter
        self.seed = seed

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        states = need_layers(self, student)
        original = need_original_layers(self, states, need_likelihood(self, student, reference)).detach()
        if self.jitter:
            directions = _unit_vectors(states.shape[1], states.shape[2], self.seed).to(states)
            original = original + self.jitter * original.norm(dim=-1, keepdim=True) * directions
        return mean_per_example(F.cosine_similarity(states, original, dim=-1).mean(1), student) / self.temperature


def _unit_vectors(layers: int, width: int, seed: int) -> Tensor:
    """One for each layer, ``[L, D]``, the same on every device and process."""
    drawn: Tensor = torch.randn(layers, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=1)
