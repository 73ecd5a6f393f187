import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero, token_nll
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


class RandomLabel(Objective):
    r"""Train on labels drawn anew, uniformly, at each step. The baseline every other objective should beat.

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \log p_n(\tilde y_n), \quad \tilde y_n \sim \mathrm{Uniform}\{1, \dots, V\}

    The true label may be drawn as well: if it never were, a network of two classes would be taught the opposite label,
    which is not forgetting. The mean over draws is :class:`UniformLabel`.

    Args:
        seed: Of the draws. They have a generator of their own, whose state goes into the checkpoint, and leave the
            global one alone.

    Example:
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> RandomLabel()(prediction)
        tensor(1.3863)

    References:
        Zhang et al., `Unforgettable Generalization in Language Models <https://arxiv.org/abs/2409.02228>`_, 2024, for
        uniformly random labels.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        count, classes = student.scores.shape
        # Drawn on the CPU, so that every device sees the same labels.
        drawn = torch.randint(classes, (count,), generator=self._generator).to(student.scores.device)
        return mean_or_zero(token_nll(student.scores, drawn))

    @override
    def start_anew(self) -> None:
        """The draws begin again."""
        self._generator.manual_seed(self.seed)

    @override
    def get_extra_state(self) -> Tensor:
        """The state of the generator of draws."""
        return self._generator.get_state()

    @override
    def set_extra_state(self, state: Tensor) -> None:
        """Continue the draws of a checkpoint."""
        self._generator.set_state(state.cpu())
