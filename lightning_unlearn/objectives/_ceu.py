import math

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.divergence import adjusted_cross_entropy
from lightning_unlearn.functional.likelihood import mean_or_zero, place_in_example
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


class CEU(Objective):
    r"""Cross-entropy unlearning (CE-U): imitate yourself, as if the label did not exist.

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \sum_{v \neq y_n} \frac{\bar p_n(v)}{1 - \bar p_n(y_n)} \log p_n(v)

    with :math:`\bar p` the network's own distribution, taken as a constant. The gradient neither vanishes where the
    network is sure of the label, nor grows where it is unsure, as that of gradient ascent does.

    Args:
        skip_first_tokens: How many supervised rows at the start of each example to leave alone: the first tokens of an
            answer often hold no fact yet. OpenUnlearning skips one. Keep 0 for examples of a single row, as images are.

    Raises:
        ValueError: If that leaves nothing of a batch, as of images.

    Example:
        >>> import torch
        >>> prediction = Prediction(torch.zeros(1, 3), torch.tensor([2]), torch.tensor([0]), batch_size=1)
        >>> CEU()(prediction)  # log 3
        tensor(1.0986)

    References:
        Yang, `CE-U: Cross Entropy Unlearning <https://arxiv.org/abs/2503.01224>`_, 2025.
    """

    def __init__(self, skip_first_tokens: int = 0) -> None:
        super().__init__()
        check_whole("skip_first_tokens", skip_first_tokens, least=0)
        self.skip_first_tokens = skip_first_tokens
        self.adds_up_over = None if skip_first_tokens else "rows"

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        rows = in_chunks(_without_label, student.scores, student.labels)
        kept = place_in_example(student.example) >= self.skip_first_tokens
        if len(kept) and not kept.any():
            raise ValueError(
                "`skip_first_tokens` should leave some rows of a batch, or nothing is forgotten. Found "
                f"`skip_first_tokens = {self.skip_first_tokens}` and at most {int(student.rows_per_example().max())} rows "
                "an example. Use `CEU()`."
            )
        return mean_or_zero(rows[kept])


def _without_label(logits: Tensor, labels: Tensor) -> Tensor:
    # The target is a constant: no gradient flows through it.
    return adjusted_cross_entropy(logits, logits.detach(), labels, shift=-math.inf)
