from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.cli import OptimizerCallable

from lightning_unlearn.data import DataSource, build
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.objectives import Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import Reference
from lightning_unlearn.transforms import GradientTransform

if TYPE_CHECKING:
    Module = pl.LightningModule | dict[str, Any]
else:
    # A plain mapping at run time, so that `build` makes the module and not LightningCLI: that would give it the
    # hyper-parameters of the object around it.
    Module = dict[str, Any]


def unlearning(
    module: Module,
    objective: Objective,
    forget: DataSource | None = None,
    checks: list[pl.Callback] | None = None,
    readout: Readout | None = None,
    projector: Projector | None = None,
    reference: Reference | None = None,
    weight: float = 1.0,
    seed: int = 0,
    optimizer: OptimizerCallable | None = None,
    transforms: list[GradientTransform] | None = None,
) -> pl.LightningModule:
    """Add unlearning to an existing LightningModule, and return the same object.

    Nothing is wrapped: the module's ``configure_callbacks`` returns the callbacks of unlearning as well, so any trainer
    that fits the module unlearns. In YAML, use this as the ``class_path``, and your own module as its ``module``. As with
    every ``configure_callbacks``, they replace callbacks of the same class in the trainer.

    Args:
        module: A ``LightningModule``, or, from YAML, a mapping with ``class_path`` and ``init_args``.
        objective: What forgetting minimises.
        forget: What must go, as in :class:`Unlearn`.
        checks: Callbacks to bring along behind :class:`Unlearn`: :class:`RecoveryCheck`, :class:`WriteReport`.
        readout: How to run the network, as in :class:`Unlearn`.
        projector: How the two gradients are merged, as in :class:`Unlearn`.
        reference: Where the original model's view comes from, as in :class:`Unlearn`.
        weight: Factor on the forget gradient, positive.
        seed: Seed of the order of the forget data, as in :class:`Unlearn`.
        optimizer: From parameters to the optimizer of forgetting alone, as in :class:`Unlearn`.
        transforms: What rewrites the forget gradient before it is merged, as in :class:`Unlearn`.

    Returns:
        ``module`` itself.

    Raises:
        ValueError: If ``module`` cannot be built from its mapping.

    Example:
        >>> from lightning_unlearn import NPO, UnlearningModule
        >>> from torch import nn
        >>> module = UnlearningModule(nn.Linear(3, 2))
        >>> unlearning(module, NPO(beta=0.1)) is module
        True
        >>> [type(callback).__name__ for callback in module.configure_callbacks()]
        ['Unlearn']
    """
    built: pl.LightningModule = build(module, pl.LightningModule)
    unlearn = Unlearn(objective, readout, projector, reference, weight, forget, seed, optimizer, transforms)
    # Set on the instance, so that other modules of the class are not changed. Lightning looks the method up there.
    object.__setattr__(built, "configure_callbacks", _Bring([unlearn, *(checks or [])], built.configure_callbacks))
    return built


class _Bring:
    """A module's ``configure_callbacks``, and more. Not a closure, so that the module can still be pickled."""

    def __init__(self, callbacks: list[pl.Callback], own: Callable[[], Sequence[pl.Callback] | pl.Callback]) -> None:
        self.callbacks, self.own = callbacks, own

    def __call__(self) -> list[pl.Callback]:
        own = self.own()
        return [*(own if isinstance(own, Sequence) else [own]), *self.callbacks]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Bring:
        """Copies of the module, as for averaged weights, are not fitted: they share the callbacks, with all their state."""
        return self
