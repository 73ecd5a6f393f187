from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.objectives._parts import Units, loss_in_parts
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import Readout


class Objective(nn.Module, ABC):
    """What forgetting, or retaining, minimises: a scalar computed from the network's predictions.

    A new objective is a subclass with a ``forward``; YAML builds it by its ``class_path``, wherever it lives.

    Attributes:
        needs_reference: Whether ``forward`` needs the *original* model's likelihoods of the labels.
        needs_reference_logits: Whether it needs the original model's whole distribution. Then cached likelihoods are not
            enough: an adapter that can be switched off, or a frozen copy, is used.
        needs_logits: Whether ``forward`` reads more of the student than :class:`Likelihood` has. Set it to ``False`` in an
            objective that does not, and it works with :class:`TrainingStepReadout`, too.
        needs_only_mean: Whether it depends on the mean over all rows alone, so that they need not be told apart.
        adds_up_over: Of what it is a mean: of ``"rows"``, whatever example they belong to; of ``"examples"`` that have
            rows; of ``"pairs"`` of examples, of which one at least has some. It then gives losses and gradients of parts
            of a batch whose logits are put off, which costs nothing. ``None``, the default, if it is no such mean.

    Example:
        >>> import torch
        >>> class Confidence(Objective):
        ...     def forward(self, student, reference=None):
        ...         return student.logits.softmax(-1).amax(-1).mean()
        >>> Confidence()(Prediction(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0, 1]), 2))
        tensor(0.2500)
    """

    needs_reference: bool = False
    needs_reference_logits: bool = False
    needs_logits: bool = True
    needs_only_mean: bool = False
    adds_up_over: Units | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What another ``forward`` adds up over is for its own class to say."""
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls) and "adds_up_over" not in vars(cls):
            cls.adds_up_over = None

    @override
    def __call__(self, student: Any, reference: Any = None) -> Any:
        """The loss, as of ``forward``."""
        if self.adds_up_over is None or not isinstance(student, Prediction):
            return super().__call__(student, reference)
        return loss_in_parts(super().__call__, student, reference, self.adds_up_over)

    @abstractmethod
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        """Compute the loss.

        Args:
            student: Predictions of the network in training.
            reference: Those of the original model for the same rows, if :attr:`needs_reference`.

        Returns:
            A scalar ``[]``, smaller when the objective is met better; a finite zero with a graph if the batch has no
            supervised row.
        """

    def refuse_without_logits(self, readout: Readout) -> None:
        """Raise a ``ValueError`` if this objective reads logits, and ``readout`` gives none."""
        if self.needs_logits and not readout.gives_logits:
            raise ValueError(
                f"`{type(self).__name__}` should get logits. Found `{readout!r}`, which gives the loss of `training_step` "
                "and nothing else. Use an objective that needs no more, such as `NPO()`, `SimNPO()` or "
                "`Bounded(GradientAscent(), bound=...)`. A classifier whose loss is another one (label smoothing, class "
                "weights) gives its logits by `readout=ClassificationReadout()`. Else write a `Readout` of your own, which "
                "gives a `Prediction`: `help(lightning_unlearn.Readout)` has one in six lines. An objective of yours that "
                "only reads likelihoods says so by `needs_logits = False`."
            )

    def start_anew(self) -> None:
        """Drop what was drawn or computed in an earlier fit: called when a fit starts. A checkpoint's is loaded after that.

        Objectives inside of this one are told, too.
        """

    @override
    def __repr__(self) -> str:
        """Name and settings in one line. Logs, reports and checkpoints distinguish objectives by it."""
        # Settings are the public attributes: not torch's `_...`, and not the flags that every Objective has.
        public = {name: value for name, value in vars(self).items() if name[0] != "_" and not hasattr(Objective, name)}
        public.pop("training", None)
        settings = {**dict(self.named_children()), **public}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"
