from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.callbacks._unlearn import Unlearn
from lightning_unlearn.data import build
from lightning_unlearn.objectives import Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import Reference


def unlearning(
    module: dict[str, Any],
    objective: Objective,
    forget: dict[str, Any] | None = None,
    checks: list[pl.Callback] | None = None,
    readout: Readout | None = None,
    projector: Projector | None = None,
    reference: Reference | None = None,
    weight: float = 1.0,
) -> pl.LightningModule:
    """Give an existing LightningModule what it needs to forget, and give the same object back.

    Nothing is wrapped: the callbacks are brought along through the module's ``configure_callbacks``, so any trainer that
    fits it unlearns. In YAML, this is the ``class_path`` to put a module of one's own under.

    Args:
        module: A ``LightningModule``, or, from YAML, a mapping with ``class_path`` and ``init_args``.
        objective: What forgetting minimises.
        forget: What must go, as in :class:`Unlearn`.
        checks: Callbacks to bring along behind :class:`Unlearn`: :class:`RecoveryCheck`, :class:`WriteReport`.
        readout: As in :class:`Unlearn`.
        projector: As in :class:`Unlearn`.
        reference: As in :class:`Unlearn`.
        weight: As in :class:`Unlearn`.

    Returns:
        ``module`` itself.
    """
    built: pl.LightningModule = build(module, pl.LightningModule)
    unlearn = Unlearn(objective, readout, projector, reference, weight=weight, forget=forget)
    own = built.configure_callbacks

    def configure_callbacks() -> Sequence[pl.Callback]:
        before = own()
        return [*(before if isinstance(before, Sequence) else [before]), unlearn, *(checks or [])]

    object.__setattr__(built, "configure_callbacks", configure_callbacks)
    return built
