from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._needs import need_likelihood
from lightning_unlearn.objectives._pairs import need_pair
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import halves_of_examples


class DPO(Objective):
    r"""Direct preference optimisation: prefer another answer, a refusal for instance, to the one that must go.

    .. math:: -\frac{2}{\beta} \, \mathbb{E}_i \log \sigma\Bigl(\beta \Bigl[
        \log \frac{\pi_\theta(y^+_i | x_i)}{\pi_\mathrm{ref}(y^+_i | x_i)} -
        \log \frac{\pi_\theta(y^-_i | x_i)}{\pi_\mathrm{ref}(y^-_i | x_i)}\Bigr]\Bigr)

    with likelihoods of whole answers, *sums* over their tokens, and the mean over the questions that have an answer with
    supervised rows. An answer without any counts as one that cannot move: without preferred answers this is
    :class:`NPO`. The factor :math:`2 / \beta`, which the paper's loss does not have, is that of :class:`NPO` and of
    OpenUnlearning, so that weights mean the same for both.

    Needs the two answers to each question: ``readout=PairedReadout()``, and :class:`PairedData`, whose companions are the
    answers to prefer: :class:`Refusals` ("IdkDPO") or :class:`Alternates` ("AltPO").

    Args:
        beta: Inverse temperature, positive.

    Example:
        >>> import torch
        >>> from lightning_unlearn.readouts import PairedPrediction
        >>> student = PairedPrediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 1]), batch_size=2)
        >>> DPO(beta=0.1)(student, student.detach())  # 2 / beta * log 2
        tensor(13.8629)

    References:
        Rafailov et al., `Direct Preference Optimization <https://arxiv.org/abs/2305.18290>`_, 2023, eq. 7. Against
        refusals: Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024. Against other plausible answers: Mekala
        et al., `Alternate Preference Optimization <https://arxiv.org/abs/2409.13474>`_, 2024.
    """

    needs_reference = True
    adds_up_over = "pairs"

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        check_positive("beta", beta)
        self.beta = beta

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        need_pair(self, student, "Refusals()")
        original = need_likelihood(self, student, reference)
        # log(pi / pi_ref) of each answer, positive if it has become likelier. The loss is softplus of minus the formula's
        # bracket, since -log sigmoid(x) = softplus(-x): so forget minus companion.
        gained = halves_of_examples(original.example_nll() - student.example_nll())
        supervised = halves_of_examples(student.supervised())
        answered = supervised.forget | supervised.companion
        margin = self.beta * (gained.forget - gained.companion)
        return 2 / self.beta * mean_or_zero(F.softplus(margin[answered]))
