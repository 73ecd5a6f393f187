from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero, sum_per_example
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._pairs import need_pair
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import halves_of_examples


class FLAT(Objective):
    r"""Forget by loss adjustment (FLAT): tell template answers from those that must go. No reference, no retain data.

    .. math:: \mathbb{E}_i \Bigl[-\tfrac{1}{2} \tanh P(y^+_i | x_i) + \tfrac{1}{2} \tanh P(y^-_i | x_i)\Bigr], \quad
        P(y | x) = \frac{1}{|y|} \sum_{t \in y} p_\theta(y_t | x, y_{<t})

    This is the variational form of the total variation between the two kinds of answers, and bounded: a half times tanh
    1 to either side. It has the mean over the questions for which an answer has supervised rows; an answer without any
    counts as one of probability 0. Padding does not count; in the public code it does, with a probability of 0.

    **Its gradient is proportional to probabilities.** What is nearly forgotten is left alone, and a template that the
    network never says is not learned: the start of :class:`JensUn`, and the same ways out.

    Needs the two answers to each question: ``readout=PairedReadout()``, and :class:`PairedData` with :class:`Refusals`.

    Example:
        >>> import torch
        >>> from lightning_unlearn.readouts import PairedPrediction
        >>> logits = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
        >>> student = PairedPrediction(logits, torch.tensor([1, 0]), torch.tensor([0, 1]), batch_size=2)
        >>> FLAT()(student)  # the template is certain: -tanh(1) / 2
        tensor(-0.3808)

    References:
        Wang et al., `LLM Unlearning via Loss Adjustment with Only Forget Data <https://arxiv.org/abs/2410.11143>`_,
        2024, and its public code, of whose f-divergences this is the total variation.
    """

    adds_up_over = "pairs"

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        need_pair(self, student, "Refusals()")
        p = sum_per_example((-student.token_nll()).exp(), student.example, student.batch_size)
        bounded = halves_of_examples((p / student.rows_per_example().clamp_min(1)).tanh())
        supervised = halves_of_examples(student.supervised())
        answered = supervised.forget | supervised.companion
        return mean_or_zero((bounded.forget - bounded.companion)[answered]) / 2
