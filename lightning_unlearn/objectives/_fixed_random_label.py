import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero, place_in_example, sum_per_example, token_nll
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


class FixedRandomLabel(Objective):
    r"""Train on labels drawn once, uniformly: each answer gets its own, the same at every step.

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \log p_n(\tilde y_n), \quad \tilde y_n = \mathrm{hash}(\text{answer}, n) \bmod V

    The draw is a hash of ``seed`` and of the answer's own labels, so nothing is stored and every device draws the same.
    What was memorised is replaced by something else to memorise; with :class:`RandomLabel` it is not.

    Args:
        seed: Of the draw.

    Raises:
        ValueError: If examples have one row each, as images have. They are told apart by their labels, so all of a class
            would get one label, perhaps their own. Use :class:`RandomLabel`, or relabel the data set.

    Example:
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> FixedRandomLabel()(prediction)
        tensor(1.3863)
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        return mean_or_zero(token_nll(student.scores, self.draw(student)))

    def draw(self, student: Prediction) -> Tensor:
        """The labels trained on, ``[N]`` int64."""
        rows, classes = student.scores.shape
        if 0 < rows <= student.batch_size:
            raise ValueError(
                "`FixedRandomLabel` should see answers of several tokens: it tells them apart by their labels. Found "
                f"{rows} rows of {student.batch_size} examples. Use `RandomLabel()`, or relabel the data set."
            )
        place = place_in_example(student.example)
        # One number per answer: the sum over its rows of a hash of place and label. It wraps around in int64, on purpose.
        answer = sum_per_example(_mix(_mix(place + self.seed) + student.labels), student.example, student.batch_size)
        return _mix(answer[student.example] + place) % classes


def _mix(numbers: Tensor) -> Tensor:
    """Scatter integers over all 64 bits, one to one: the finaliser of splitmix64, int64 wrapping around."""
    numbers = numbers + -0x61C8864680B583EB
    numbers = (numbers ^ _right(numbers, 30)) * -0x40A7B892E31B1A47
    numbers = (numbers ^ _right(numbers, 27)) * -0x6B2FB644ECCEEE15
    return numbers ^ _right(numbers, 31)


def _right(numbers: Tensor, bits: int) -> Tensor:
    # Torch's int64 shift copies the sign bit in; splitmix64 is of unsigned numbers, so the copies are masked off.
    return torch.bitwise_right_shift(numbers, bits) & ((1 << (64 - bits)) - 1)
