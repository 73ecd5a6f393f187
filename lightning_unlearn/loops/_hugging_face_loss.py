from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_unlearn.loops._guest_module import Loss


def own_loss_of(trainer: Any) -> Loss:
    """The loss that a ``transformers.Trainer`` minimises, of a batch alone: a mean, and nothing of it is recorded.

    Args:
        trainer: The trainer.
    """

    def loss(network: nn.Module, batch: Any) -> Tensor:
        before = dict(vars(trainer))
        try:
            value: Tensor = trainer.compute_loss(network, dict(batch))  # a copy: it may take labels out
        finally:
            vars(trainer).update(before)  # TRL counts the tokens that went through
        return value

    return loss


def collections_of(trainer: Any) -> list[Any]:
    """What a trainer keeps in collections of its own, such as TRL's metrics: extra passes put it back as it was."""
    data = (trainer.train_dataset, trainer.eval_dataset)  # large, and written to by nobody
    found = [value for value in vars(trainer).values() if isinstance(value, dict | list)]
    return [value for value in found if not any(value is each for each in data)]
