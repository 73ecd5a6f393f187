from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Likelihood


class Loss(KnowledgeMetric):
    """The loss of the user's ``training_step``, in its own units; mean over examples, or over batches. Lower: more is known.

    What :class:`Measure` observes under :class:`TrainingStepReadout`. It is not turned into a probability: whether
    ``exp(-loss)`` is one depends on the loss.

    Example:
        >>> import torch
        >>> from lightning_unlearn.prediction import KnownLikelihood
        >>> metric = Loss()
        >>> metric.update(KnownLikelihood(torch.tensor([0.5, 1.5]), torch.tensor([0, 1]), 2))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    in_words: ClassVar[str] = (
        "The loss the model is trained by, in its own units; lower means it knows more. It is no probability."
    )
    higher_means_known: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))
    needs_logits: ClassVar[bool] = False

    @override
    def scores_of(self, prediction: Likelihood) -> Tensor:
        return prediction.example_nll() / prediction.rows_per_example().clamp_min(1)
