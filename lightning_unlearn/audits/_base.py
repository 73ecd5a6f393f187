from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout


class Audit(ABC):
    """Observes what a network knows, and changes nothing: no weight, no mode, no gradient, no random state.

    :class:`RecoveryCheck` runs it without an attack, and at each point of each attack. It adds to each observation what the
    audit cannot know: the subject, the step, and the attack.

    Attributes:
        under_attack: Whether it is run at each point of each attack, too. What asks the weights alone has nothing new to
            say there.

    Example:
        >>> import torch
        >>> from lightning_unlearn import ClassificationReadout
        >>> from lightning_unlearn.audits import Measure
        >>> from lightning_unlearn.data import load_probe
        >>> network, readout = nn.Linear(3, 2), ClassificationReadout()
        >>> probe = load_probe([(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))], readout)
        >>> found = Measure()(network, readout=readout, probes={"forget": probe}, engine=GradientEngine(network))
        >>> [(o.metric, o.split, len(o.scores)) for o in found]
        [('probability', 'forget', 4), ('token_nll', 'forget', 4)]
    """

    under_attack: ClassVar[bool] = True

    @abstractmethod
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        """Observe ``network``.

        Args:
            network: The live network.
            readout: How it is run on a batch.
            probes: The data to observe it on, by split.
            engine: Moves batches to the device, and calls the network as the strategy needs it called.

        Returns:
            One observation for each metric and split, the same on every process, with ``metric``, ``split``, ``value``,
            ``scores``, ``entities``, ``higher_means_known`` and ``bounds``. None for a split without scores.
        """

    @abstractmethod
    def definitions(self) -> dict[str, str]:
        """The meaning of each of its metrics, by name, for a reader of the report."""

    def see_original(self, network: nn.Module) -> None:
        """Called while ``network`` is the original: before the first step, and before a checkpoint is restored.

        For audits that compare with it. Defaults to nothing.

        Args:
            network: The network, or a module around it.
        """

    def refuse(self, probes: Mapping[str, Probe]) -> None:
        """Refuse data that it cannot use, by raising :class:`Misfit`: called before anything is observed.

        Defaults to nothing.

        Args:
            probes: The data, by split; the same on every process.
        """

    @property
    def needs_control(self) -> bool:
        """Whether it compares with a model that never knew, and has nothing but a control for it. Defaults to no."""
        return False

    def see_control(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> None:
        """Called while ``network`` has the weights of the control, before anything is observed, in each run.

        For audits that compare with it. Defaults to nothing. Collective, as ``__call__`` is.

        Args:
            network: The live network.
            readout: How it is run on a batch.
            probes: The data, by split.
            engine: Calls the network as the strategy needs it called.
        """

    def __repr__(self) -> str:
        """The audit and its plain settings."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, (bool, int, float, str)) and k[0] != "_"}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in plain.items())})"


def observations_of(split: str, probe: Probe, metric: str, scores: list[float], **about: Any) -> list[Observation]:
    """One observation of the mean of ``scores``; none at all if there are no scores.

    Args:
        split: Name of the probe.
        probe: What was asked.
        metric: Name of the metric.
        scores: One for each example that has an answer, in the order of the data.
        about: ``higher_means_known`` and ``bounds``.
    """
    if not scores:
        return []
    # Entities are known for all examples, scores only for supervised ones. If their numbers differ, it is not known which
    # score belongs to which entity, and none is named.
    entities = probe.entities if len(probe.entities) == len(scores) else []
    value = sum(scores) / len(scores)
    return [Observation(metric=metric, split=split, value=value, scores=scores, entities=entities, **about)]
