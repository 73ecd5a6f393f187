from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource
from lightning_unlearn.engine import Row
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import local
from lightning_unlearn.selectors import Choice, Selector
from lightning_unlearn.transforms._chain import StepChain
from lightning_unlearn.transforms._mask import Mask
from lightning_unlearn.transforms._name_mask import NameMask
from lightning_unlearn.transforms._score_mask import ScoreMask
from lightning_unlearn.transforms._step import Step
from lightning_unlearn.transforms._step_transform import Restriction


class TrainOnly(Restriction):
    """Train the parameters of some names, or the weights of the highest scores; all others stay, bit for bit.

    After each optimizer step the others are set back to what they were. So momentum, weight decay and moments, which move
    a parameter even where its gradient is zero, do not move them. A :class:`StepGuard` beside it, in any
    order, looks for its directions among the weights that are trained.

    With a ``selector`` the weights are scored once, before the first step; random generators, buffers, gradients and modes
    are afterwards as they were. If the selector gives each tensor one score, whole tensors are trained. If it scores each
    element, single elements are, and a boolean per element is held. The choice is in the checkpoint: a resumed fit does
    not score again, a second fit does. Parameters without a score stay, also if they are unfrozen later; patterns hold for
    parameter groups that are added during the fit, too.

    Nothing is frozen by ``requires_grad``, which would change what the fit's own code sees: the backward pass costs what it
    costs without, and a copy of the parameters that stay is held during each step. To save both, freeze parameters yourself
    before the fit, where nothing else looks at their gradients.

    Args:
        pattern: ``fnmatch`` patterns of a parameter's full name or of any part of it between dots, such as ``"lm_head"``,
            ``"mlp"`` or ``"model.layers.1?.*"``. A parameter of several names, as of a tied head, is trained if one fits.
        selector: Scores weights, instead of ``pattern``; those of the network that ``readout`` finds.
        choice: Which scores are trained, such as :class:`TopShare`.
        forget: What must go, if the selector looks at it: a datamodule, a loader, a data set, or, from YAML, a mapping with
            ``class_path`` and ``init_args``. Every process looks at all of it.
        retain: What must stay, if the selector looks at it.
        readout: How to run the network for the selector. Defaults to what fits the module, as in :class:`Unlearn`.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization, DeepSpeed or FSDP1; when training starts, with LBFGS;
            at the first batch, if elements are chosen beside another restriction.
        ValueError: In ``setup``, if the selector needs data, and there is none; when the fit starts, if a pattern fits no
            parameter, or the choice is empty.
        RuntimeError: When training ends, if an optimizer step was not masked.

    Example:
        >>> from lightning_unlearn.selectors import Random, TopShare
        >>> only = TrainOnly(["mlp", "model.layers.1?.*"])  # Trainer(callbacks=[unlearn, only])
        >>> tenth = TrainOnly(selector=Random(), choice=TopShare(0.1))
    """

    prefix: ClassVar[str] = "train_only"
    works_on_flat_shards: ClassVar[bool] = False

    def __init__(
        self,
        pattern: str | list[str] | None = None,
        *,
        selector: Selector | None = None,
        choice: Choice | None = None,
        forget: DataSource | None = None,
        retain: DataSource | None = None,
        readout: Readout | None = None,
    ) -> None:
        super().__init__()
        self._has_chosen = False
        given = {"selector": selector, "choice": choice, "forget": forget, "retain": retain, "readout": readout}
        found = [f"`{name}`" for name, value in {"pattern": pattern, **given}.items() if value is not None]
        self._mask: Mask
        if pattern is not None and len(found) == 1:
            self._mask = NameMask([pattern] if isinstance(pattern, str) else list(pattern))
        elif pattern is None and selector is not None and choice is not None:
            self._mask = ScoreMask(selector, choice, forget, retain, readout)
        else:
            raise ValueError(
                "What is trained should be said by `pattern` alone, or by `selector` and `choice`. Found "
                f"{', '.join(found) or 'neither'}. Use `TrainOnly('mlp')`, or `TrainOnly(selector=..., choice=...)`."
            )

    @property
    def state_key(self) -> str:
        """Tells several instances in one trainer apart by what they train."""
        return f"TrainOnly[{self._mask!r}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and find the data."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._has_chosen = False
            self._mask.setup(trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Parameters exist, sharded ones too: others can ask from now on what stays."""
        self._mask.start(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Choose before the first step. Until then the hooks of others may load weights."""
        self.see_original(trainer, pl_module)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose by the weights as they are now, unless that was done: before the first step, or before an edit."""
        if self._has_chosen:
            return
        self._has_chosen = True
        cuts_through = any(self._mask.elements(p) is not None for p in pl_module.parameters())
        beside = [type(t).__name__ for t in StepChain.of(trainer).restrictions if not isinstance(t, TrainOnly)]
        if cuts_through and beside:
            # Projections and masks that cut through a matrix undo each other: only one of the two promises would hold.
            raise NotImplementedError(
                "`TrainOnly` should choose whole tensors beside another restriction. Found single elements, beside "
                f"`{beside[0]}`. Use a selector that scores tensors, or leave one of the two out."
            )

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        # An optimizer moves what has a gradient; one that is left from before it was frozen will do.
        moving = [p for p in step.params if p.requires_grad or p.grad is not None]
        return [[p] for p in moving if self._mask.stays(p) or self._mask.elements(p) is not None]

    @override
    @torch.no_grad()
    def after(self, step: Step) -> None:
        for p in (p for p in step.params if step.snapshot.holds(p)):  # others may have asked for copies, too
            if self._mask.stays(p):
                local(p).copy_(step.before(p))
            elif (trained := self._mask.elements(p)) is not None:
                local(p).copy_(torch.where(trained, local(p), step.before(p)))

    @override
    def allowed(self, direction: Row, params: Sequence[Tensor]) -> Row:
        return [None if g is None else self._allowed(g, p) for g, p in zip(direction, params, strict=True)]

    @override
    def leaves_alone(self, param: Tensor) -> bool:
        return self._mask.stays(param)

    @override
    def saved(self) -> dict[str, Any]:
        """Counters, and what was chosen by scores."""
        return {**super().saved(), "mask": self._mask.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up both."""
        super().load_state_dict(state_dict)
        self._mask.load_state_dict(state_dict["mask"])

    def _allowed(self, direction: Tensor, param: Tensor) -> Tensor | None:
        if self._mask.stays(param):
            return None
        trained = self._mask.elements(param)
        return direction if trained is None else direction.masked_fill(~trained.to(direction.device), 0)
