from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_between, check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._pairs import need_pair
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import halves_of_examples


class SpanPair(Objective):
    r"""Prefer harmless steps of a chain of thought to those that must go: a reconstruction from an abstract.

    The paper's text and code could not be had: the form, the length normalisation and the defaults are ours.

    .. math:: -\frac{2}{\beta} \, \mathbb{E}_i \log \sigma\Bigl(\beta \Bigl[
        \frac{\Delta(R_i)}{|R_i|^\kappa} - \frac{\Delta(F_i)}{|F_i|^\kappa}\Bigr]\Bigr), \quad
        \Delta(S) = \sum_{t \in S} \log \frac{\pi_\theta(c_t | x, c_{<t})}{\pi_\mathrm{ref}(c_t | x, c_{<t})}

    :math:`F` are the spans of a trace and of its answer that must go, :math:`R` those that replace them in a rewritten
    trace. Spans are labels: every token outside of them is -100, so the logic between them is conditioned on and neither
    learned nor forgotten. Who finds the spans, and who writes the replacements, is left to you.

    Needs both traces: ``readout=PairedReadout()``, and :class:`PairedData` with :class:`RewrittenTrace`, which marks them.
    With ``kappa=0`` it is :class:`DPO` on spans; without any replacement, :class:`NPO` on spans.

    Args:
        beta: Inverse temperature, positive.
        kappa: How strongly a span's length counts, between 0 (sums over tokens) and 1 (means over tokens).

    Example:
        >>> import torch
        >>> from lightning_unlearn.readouts import PairedPrediction
        >>> student = PairedPrediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 1]), batch_size=2)
        >>> SpanPair(beta=0.1)(student, student.detach())  # 2 / beta * log 2
        tensor(13.8629)

    References:
        Le et al., `Selective Forgetting for Large Reasoning Models <https://arxiv.org/abs/2604.03571>`_, 2026, for replacing
        segments of a chain of thought.
    """

    needs_reference = True
    adds_up_over = "pairs"

    def __init__(self, beta: float = 0.1, kappa: float = 0.0) -> None:
        super().__init__()
        check_positive("beta", beta)
        check_between("kappa", kappa, 0, 1)
        self.beta = beta
        self.kappa = kappa

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        need_pair(self, student, "RewrittenTrace()")
        original = need_likelihood(self, student, reference)
        likelier = original.example_nll() - student.example_nll()  # log(pi / pi_ref) of the marked spans together
        # In the type of the likelihoods: a power of integers would be float32.
        length = student.rows_per_example().clamp_min(1).to(likelier.dtype)
        gained = halves_of_examples(likelier / length**self.kappa)
        supervised = halves_of_examples(student.supervised())
        marked = supervised.forget | supervised.companion
        margin = self.beta * (gained.forget - gained.companion)
        return 2 / self.beta * mean_or_zero(F.softplus(margin[marked]))
