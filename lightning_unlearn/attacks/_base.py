from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks._around_autocast import around_autocast
from lightning_unlearn.data import FactSplit
from lightning_unlearn.data.records import QuestionAnswer
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation

BatchLoss = Callable[[Any], Tensor]
"""From a batch to the scalar an attacker minimises."""

Need = Literal["attack", "forget", "judged", "retain", "both"]
"""Which batches an attack is given: see :class:`Attack`."""


class Attack(ABC):
    """What an adversary, or a deployment, does to a network: a context manager over the live network.

    Entering perturbs the network and gives an iterator of *points*: strengths of the attack (a number of steps, of bits)
    at which the caller should measure. Leaving restores every parameter bit for bit, also after an exception, or when not
    all points were consumed.

    Attributes:
        family: The kind of attack. To the report ``"quant"``, ``"prune"``, ``"merge"`` and ``"compress"`` are what people do
            in good faith to use a model; every other kind, such as ``"relearn"``, is an adversary.
        unit: What a point counts, for axes and tables: ``"bits"``, ``"step"``. In the plural it stands behind the number
            ("4 bits"), else before it ("step 20").
        needs_data: Which ``batches`` it should be given: ``"attack"``, an attacker's own, which in a fit share no example
            with those whose forget gradient is taken; ``"judged"``, in a fit these very batches; ``"forget"``, in a fit
            these and those that follow (in a check, both are the attacker's own); ``"retain"``, what the fit keeps;
            ``"both"``, a mapping with the attacker's own as ``"attack"`` and others as ``"beside"``; ``None``, the default,
            for none.
        data: Name of the attacker's data, in a check that has several; ``None`` for those it takes otherwise.
        beside: Of ``"both"``, what the others are: ``"retain"``, or a name as in ``data``.
        facts: Which facts the attacker has, if he is judged by the others; ``None`` if he may have all.
        of_grid: Name of the :class:`AttackGrid` that it is a cell of; empty for none.

    Example:
        >>> import torch
        >>> from lightning_unlearn import Quantize
        >>> network = torch.nn.Linear(4, 4)
        >>> with Quantize(bits=2, skip=())(network) as points:
        ...     seen = [(bits, network.weight.unique().numel() <= 16) for bits in points]
        >>> seen
        [(2, True)]
    """

    family: ClassVar[str]
    unit: ClassVar[str]
    needs_data: Need | None = None
    data: str | None = None
    beside: str = "retain"
    facts: FactSplit | None = None
    of_grid: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            type.__setattr__(cls, "__call__", around_autocast(cls.__call__))  # also of attacks of others

    @abstractmethod
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> AbstractContextManager[Iterator[float]]:
        """Attack ``network``.

        Args:
            network: The live network, perturbed in place.
            batches: What the attacker has to train on, on the network's device. They may be loaded one by one.
            loss: What the attacker minimises on a batch.
            engine: How gradients are computed under the strategy in use. Defaults to plain autograd.
        """

    def batches_read(self) -> int | None:
        """How many of its batches it reads at most, the first ones; ``None``, the default, for all of them."""
        return None

    def asks(self, rows: Sequence[QuestionAnswer], *, split: str, point: float) -> Sequence[QuestionAnswer | None]:
        """In which words the model is asked at ``point``, for attacks by prompt; as many rows, in the same order.

        Answers and entities stay; ``None`` stands for a row that does not count at this point. Neither does one whose prompt
        holds its answer, whatever the attack says. Defaults to the rows themselves. Other words need audits of questions and
        answers, as :class:`QuestionAnswerData` gives them; on data without words such an attack fails by name, and the
        report says that it is not shown.

        Args:
            rows: What the audits ask otherwise.
            split: Name of the probe.
            point: The strength at which it is asked.
        """
        return rows

    def planned(self) -> tuple[int, int]:
        """How many points it will yield, and how many training steps it will take, to forecast the time of an audit."""
        return 1, 0

    def about(self, point: float) -> dict[str, Any]:
        """What the report should say of ``point`` beside the settings, as plain values: by default nothing."""
        return {}

    def conclude(self, seen: Sequence[Sequence[Observation]]) -> list[Observation]:
        """What is reported at a point, from what was observed at each point so far; by default the last of them."""
        return list(seen[-1])

    def drawn(self, generator: torch.Generator) -> Attack:
        """This attack at one of its strengths, drawn at random: what ``Unlearn(under=...)`` meets in one step.

        Its last point is where the forget gradient is taken. Whatever else is random in it (a start, a direction) is drawn
        anew, too. Defaults to the attack itself, for attacks of one point without chance.

        Args:
            generator: On the CPU; in the same state on all processes, and a function of the seed and the step alone.
        """
        return self

    def see_original(self, network: nn.Module) -> None:
        """Called while ``network`` is the original: before the first step, and before a checkpoint is restored.

        For attacks that move back towards it. Defaults to nothing.

        Args:
            network: The network, or a module around it: before a checkpoint is restored it may not be known yet which part
                of a module will be attacked.
        """

    def share_reached(self, network: nn.Module) -> float | None:
        """The share of the weights of ``network`` that the attack reaches, from 0 to 1, for the report.

        An attack that reached less than half of them shows nothing, so such numbers are no verdict. ``None``, the default,
        is for attacks that this does not apply to.
        """
        return None
