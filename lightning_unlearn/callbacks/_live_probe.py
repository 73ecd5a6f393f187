from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.audits import stacked_states
from lightning_unlearn.forgetting import objectives_in
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.objectives import GradientReversalProbe
from lightning_unlearn.runtime import on_every_rank, seeded


class LiveProbe(pl.Callback):
    r"""Train the probe that :class:`GradientReversalProbe` works against, a few steps for each step of the fit.

    The probe is linear, from a hidden state to the labels that occur in the forget data. It learns from the rows of the
    step that has just been taken, of all processes and vantage points, with an Adam of its own. Probe and Adam are in the
    state of this callback, and not in that of the module: no model is saved with them. The strength of the reversal rises
    with the fit,

    .. math:: \lambda = \frac{2}{1 + e^{-10 p}} - 1

    where :math:`p` is the share of the fit's steps that are taken, the next one included.

    Logged: ``live_probe/accuracy`` on the rows of a step, before it learns from them. At chance it proves nothing; see
    :func:`decodability`.

    Args:
        lr: Step size of the probe, positive.
        steps: Steps of the probe for each step of the fit.
        seed: Of its start values.

    Raises:
        ValueError: In ``setup``, if not exactly one :class:`Unlearn` forgets by :class:`GradientReversalProbe`; during the
            fit, if it has no end.

    Example:
        >>> callback = LiveProbe(steps=5)  # Trainer(callbacks=[Unlearn(GradientReversalProbe(), ...), callback])

    References:
        The schedule: Ganin and Lempitsky, `Unsupervised Domain Adaptation by Backpropagation
        <https://arxiv.org/abs/1409.7495>`_, 2015. The defaults are ours.
    """

    def __init__(self, lr: float = 1e-3, steps: int = 3, seed: int = 0) -> None:
        check_positive("lr", lr)
        check_whole("steps", steps)
        self.lr, self.steps, self.seed = lr, steps, seed
        self._restored: dict[str, Any] = {}
        self._start_anew()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the objective, and have no probe of an earlier fit."""
        if stage != "fit":
            return
        self._start_anew()
        found = objectives_in(trainer, GradientReversalProbe, type(self).__name__)
        if len(found) > 1:
            raise ValueError(
                f"`LiveProbe` should serve one `GradientReversalProbe`. Found {len(found)}. Leave one out."
            )
        self._served, self._objective = found[0], found[0].objective
        self._objective.take_seen()  # of a fit that was interrupted in the middle of a step

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make the probe, if there is none yet, and show it to the objective."""
        if self.probe is None:
            self._make(pl_module)
        assert self.probe is not None, "it has just been made"
        strength = reversal_strength((trainer.global_step + 1) / _length_of(trainer))
        self._objective.face(self.probe, self._labels, strength)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Train the probe on what the step has seen. After the other micro-batches there is nothing new."""
        seen = self._objective.take_seen()
        rows = [seen] if trainer.world_size == 1 else on_every_rank(seen and tuple(part.cpu() for part in seen))
        rows = [each for each in rows if each is not None and len(each[0])]
        if not rows or self.probe is None:
            return
        states, classes = (torch.cat([x.to(pl_module.device) for x in part]) for part in zip(*rows, strict=True))
        accuracy = self._learn(states, classes)
        pl_module.log("live_probe/accuracy", accuracy, batch_size=len(states), rank_zero_only=True)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The probe, its optimizer, and the labels of its classes."""
        if self.probe is None:
            return self._restored
        parts = {"probe": self.probe.state_dict(), "optimizer": self._optimizer.state_dict()}
        return {**parts, "labels": self._labels}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the device is known."""
        self._restored = state_dict

    def _start_anew(self) -> None:
        self.probe: nn.Linear | None = None
        self._labels = torch.empty(0, dtype=torch.int64)
        self._restored = {}

    def _make(self, module: pl.LightningModule) -> None:
        """Collective: every rank reads the forget data, unless a checkpoint has the probe."""
        state, self._restored = self._restored, {}
        if state:
            self._labels = state["labels"].to(module.device)
            width = state["probe"]["weight"].shape[1]
        else:
            self._labels, width = self._look(module)
        with seeded(self.seed):
            self.probe = nn.Linear(width, len(self._labels)).to(module.device)
        self._optimizer = torch.optim.Adam(self.probe.parameters(), self.lr)
        if state:
            self.probe.load_state_dict(state["probe"])
            self._optimizer.load_state_dict(state["optimizer"])

    def _look(self, module: pl.LightningModule) -> tuple[Tensor, int]:
        """The labels in the forget data, and the width of the hidden states."""
        read = self._served.read(module, self._served.forget())
        labels = torch.cat([prediction.labels for prediction in read]).unique()
        if len(labels) < 2:
            raise ValueError(
                f"The forget data should have at least two different labels for a probe to tell apart. Found {len(labels)}."
            )
        return labels, stacked_states(read).shape[1]

    def _learn(self, states: Tensor, classes: Tensor) -> Tensor:
        """Take the probe's steps. Returns the share of rows that it got right before."""
        assert self.probe is not None, "it learns after it was made"
        with torch.inference_mode(False), torch.enable_grad():
            accuracy: Tensor = (self.probe(states).argmax(1) == classes).float().mean()
            for _ in range(self.steps):
                self._optimizer.zero_grad()
                F.cross_entropy(self.probe(states), classes).backward()
                self._optimizer.step()
        return accuracy.detach()


def reversal_strength(progress: float) -> float:
    """The schedule, from 0 at the start to nearly 1 at the end.

    Example:
        >>> reversal_strength(0.0), round(reversal_strength(0.1), 3), round(reversal_strength(1.0), 4)
        (0.0, 0.462, 0.9999)
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def _length_of(trainer: pl.Trainer) -> float:
    steps = float(trainer.estimated_stepping_batches)
    if not math.isfinite(steps):
        raise ValueError(
            "`LiveProbe` should know how many steps the fit takes: the strength of the reversal rises with them. Found no "
            "end. Give the trainer `max_steps` or `max_epochs`."
        )
    return max(steps, 1.0)
