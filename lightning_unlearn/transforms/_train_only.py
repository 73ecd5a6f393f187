from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import Row
from lightning_unlearn.runtime import local
from lightning_unlearn.transforms._step import Step
from lightning_unlearn.transforms._step_transform import Restriction

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


class TrainOnly(Restriction):
    """Train the parameters of some names; all others stay, bit for bit, whatever the optimizer does to them.

    After each optimizer step the others are set back to what they were. So momentum, weight decay and moments, which move
    a parameter even where its gradient is zero, do not move them. A :class:`StepGuard` beside it, in any
    order, looks for its directions among the parameters that are trained.

    Nothing is frozen by ``requires_grad``, which would change what the fit's own code sees: the backward pass costs what it
    costs without, and a copy of the parameters that stay is held during each step. To save both, freeze parameters yourself
    before the fit, where nothing else looks at their gradients.

    Parameter groups that are added during the fit are held to the same names from then on.

    Args:
        pattern: ``fnmatch`` patterns of a parameter's full name or of any part of it between dots, such as ``"lm_head"``,
            ``"mlp"`` or ``"model.layers.1?.*"``. A parameter of several names, as of a tied head, is trained if one fits.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization, DeepSpeed or FSDP1; when training starts, with LBFGS.
        ValueError: When the fit starts, if a pattern fits no parameter.
        RuntimeError: When training ends, if an optimizer step was not masked.

    Example:
        >>> only = TrainOnly(["mlp", "model.layers.1?.*"])  # Trainer(callbacks=[unlearn, only])
    """

    prefix: ClassVar[str] = "train_only"
    works_on_flat_shards: ClassVar[bool] = False

    def __init__(self, pattern: str | list[str]) -> None:
        super().__init__()
        self.patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        if not self.patterns:
            raise ValueError("`pattern` should say what is to be trained. Found no pattern. Use `'*'` for everything.")
        self._stay: set[int] = set()

    @property
    def state_key(self) -> str:
        """Tells several instances in one trainer apart by what they train."""
        return f"TrainOnly[{', '.join(self.patterns)}]"

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Parameters exist, sharded ones too: others can ask from now on what stays."""
        self._module = pl_module
        self._choose()

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        if not self._known.issuperset(map(id, step.params)):
            self._choose()
        # An optimizer moves what has a gradient; one that is left from before it was frozen will do.
        return [[p] for p in step.params if id(p) in self._stay and (p.requires_grad or p.grad is not None)]

    @override
    @torch.no_grad()
    def after(self, step: Step) -> None:
        for p in step.params:
            if id(p) in self._stay and step.snapshot.holds(p):
                local(p).copy_(step.before(p))

    @override
    def allowed(self, direction: Row, params: Sequence[Tensor]) -> Row:
        return [None if id(p) in self._stay else g for g, p in zip(direction, params, strict=True)]

    @override
    def leaves_alone(self, param: Tensor) -> bool:
        return id(param) in self._stay

    def _choose(self) -> None:
        self._known = {id(p) for p in self._module.parameters()}
        self._stay = self._known - self._trained(self._module)

    def _trained(self, module: nn.Module) -> set[int]:
        """Which parameters are trained, by ``id``."""
        names = [(_plain(name), p) for name, p in module.named_parameters(remove_duplicate=False)]
        for pattern in self.patterns:
            if not any(_fits(name, pattern) for name, _ in names):
                there = ", ".join(f"`{name}`" for name, _ in names[:20])
                more = f" and {len(names) - 20} more" if len(names) > 20 else ""
                raise ValueError(
                    "Each `pattern` should fit the name of a parameter, or a part of it between dots. Found none for "
                    f"{pattern!r}. There are {there}{more}."
                )
        return {id(p) for name, p in names if any(_fits(name, pattern) for pattern in self.patterns)}


def _plain(name: str) -> str:
    """The name that the user gave: without what ``torch.compile`` and activation checkpointing put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _fits(name: str, pattern: str) -> bool:
    return any(fnmatch(part, pattern) for part in (name, *name.split(".")))
