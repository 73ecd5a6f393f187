from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary, ref

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_unlearn.engine import Row, clean_weights, settle_noise, was_skipped
from lightning_unlearn.transforms._step import Step


class Stage(IntEnum):
    """What a transform does to a step. A later stage works within what the earlier ones allow.

    A gate decides coordinate by coordinate. A rule works on the result, and seeks its correction among the steps that
    restrictions allow: it may protect several losses, or demand that none changes, and a gate that came after it could break
    that. Restrictions are nevertheless *applied* last. They are linear, and leave a step alone that already respects them.
    So the final step respects them in every metric.
    """

    RESTRICT = 1
    GATE = 2
    RULE = 3
    PROXIMAL = 4
    NOISE = 5


class Link(Protocol):
    """What the chain needs of a transform; :class:`StepTransform` provides it."""

    @property
    def stage(self) -> Stage: ...
    def wanted(self, step: Step) -> Sequence[Sequence[Tensor]]: ...
    def before(self, step: Step) -> None: ...
    def after(self, step: Step) -> None: ...
    def allowed(self, direction: Row, params: Sequence[Tensor]) -> Row: ...
    def leaves_alone(self, param: Tensor) -> bool: ...
    def count(self, what: str) -> None: ...


class Forgetting(Protocol):
    """What the chain needs of a callback that forgets.

    Attributes:
        is_idle: Whether the step is none of training. Then it is not counted, and not changed.
    """

    is_idle: bool

    @property
    def forget_optimizer(self) -> torch.optim.Optimizer | None:
        """Its own optimizer; ``None`` if it merges its gradient into the fit's."""
        ...

    def after_fit_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Called after the fit's step: measure it, or take an own step. Returns whether an own step was taken."""
        ...


class StepChain:
    """Owns the hook on the fit's optimizer, and the single copy of the weights before a step.

    Each trainer has one chain. Callbacks join it in ``setup``, so none has to know another::

        on_before_optimizer_step   each transform reports that it is ready; after the last one, the weights are copied
        the fit's optimizer steps  weights move
        our hook, the last one     forgetting measures the step, noise is taken off the weights
                                   forgetting takes its own step, if it has its own optimizer
                                   transforms change the guarded step, by stage; restrictions come last

    The guarded step is that of forgetting's own optimizer if there is one, else the fit's. Restrictions hold for both steps:
    the fit's step is restricted first, its copy of the weights is freed, and the weights are copied again for the next step.

    A post hook of the optimizer, and not a callback hook: no callback hook runs right after the step, before schedulers and
    logs. If a gradient scaler skips a step, the hook does not run, or (fused optimizers) can tell; see :func:`was_skipped`.
    """

    # Callbacks in a chain refer back to the trainer, so weak keys alone would not free it: `close` removes the entry.
    _chains: ClassVar[WeakKeyDictionary[pl.Trainer, StepChain]] = WeakKeyDictionary()

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = ref(trainer)
        self._transforms: list[Link] = []
        self._forgetting: list[Forgetting] = []
        self._ready: set[int] = set()  # ids of the transforms that are ready for the coming step
        self._step: Step | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._handle: Any = None

    @classmethod
    def of(cls, trainer: pl.Trainer) -> StepChain:
        """The chain of this trainer's fit, made when it is first asked for."""
        return cls._chains.setdefault(trainer, cls(trainer))

    @classmethod
    def close(cls, trainer: pl.Trainer) -> None:
        """End the fit, also after an exception: leave no hook, no copy and no callback behind. May be called twice."""
        chain = cls._chains.pop(trainer, None)
        if chain is not None:
            chain._step = None
            if chain._handle is not None:
                chain._handle.remove()

    def add(self, transform: Link) -> None:
        """Add a transform. They are ordered by stage, and within a stage as the callbacks are (the sort is stable)."""
        if not any(transform is t for t in self._transforms):
            self._transforms = sorted([*self._transforms, transform], key=lambda t: t.stage)

    def add_forgetting(self, forgetting: Forgetting) -> None:
        """Add a callback that forgets."""
        if not any(forgetting is f for f in self._forgetting):
            self._forgetting.append(forgetting)

    @property
    def forgets(self) -> bool:
        """Whether the fit forgets anything."""
        return bool(self._forgetting)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the hook on the fit's optimizer, once."""
        if self._handle is None:
            self._optimizer = optimizer
            self._handle = optimizer.register_step_post_hook(self._after_step)

    def guarded(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer whose step is guarded: forgetting's own if there is one, else the fit's ``optimizer``."""
        return next((f.forget_optimizer for f in self._own_steps()), None) or optimizer

    def refuse_several_steps(self, who: str) -> None:
        """Refuse several callbacks that forget if one has its own optimizer: only one of their steps would be guarded."""
        own = len(self._own_steps())
        if own and len(self._forgetting) > 1:
            raise NotImplementedError(
                f"`{who}` should find all forgetting in one step: a single `Unlearn(optimizer=...)`, or any number of "
                f"`Unlearn` without. Found {len(self._forgetting)} `Unlearn`, {own} of them with an optimizer of its own. "
                "Leave out `optimizer`, and the whole step is guarded."
            )

    @property
    def transforms(self) -> Sequence[Link]:
        """All transforms, by stage."""
        return self._transforms

    @property
    def restrictions(self) -> list[Link]:
        """The transforms that limit steps to a subspace, or to some parameters."""
        return [t for t in self._transforms if t.stage == Stage.RESTRICT]

    @property
    def is_restricted(self) -> bool:
        """Whether there is any restriction."""
        return bool(self.restrictions)

    def leaves_alone(self, param: Tensor) -> bool:
        """Whether some restriction leaves ``param`` unchanged, bit for bit."""
        return any(t.leaves_alone(param) for t in self.restrictions)

    def ready(self, transform: Link, optimizer: torch.optim.Optimizer) -> None:
        """Report that ``transform`` has what it needs for the coming step. When all have, the step begins.

        If a gradient scaler then skips the step, it is dropped when the next one begins.
        """
        self._ready.add(id(transform))
        if len(self._ready) < len(self._transforms):
            return
        self._ready.clear()
        self._step = None  # frees a skipped step's copy of the weights before the next copy is made
        # With an own step to follow, rules wait for that one: of the fit's step only the restrictions need the weights.
        self._step = self._begun(optimizer, self.restrictions if self._own_steps() else self._transforms)
        if self._handle is not None:
            # Hooks that others have added since should see the proposed step, not the corrected one: ours runs last.
            hooks: Any = optimizer._optimizer_step_post_hooks  # an ordered dictionary
            hooks.move_to_end(self._handle.id)

    def _begun(self, optimizer: torch.optim.Optimizer, transforms: Sequence[Link]) -> Step:
        step = Step(optimizer, [t.allowed for t in self.restrictions])
        groups = [group for t in transforms for group in t.wanted(step)]
        # Joined vectors first: a transform that needs one of their parameters alone then gets a view, and no second copy.
        with clean_weights(self._module):  # noise on them is no part of the step
            for group in sorted(groups, key=len, reverse=True):
                step.snapshot.keep(group)
        for t in transforms:
            t.before(step)
        return step

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        step, self._step = self._step, None
        # If a gradient scaler found infinities, fused optimizers are still called, and so is this hook. Others are not.
        if was_skipped(optimizer) or self._is_set_aside() or any(f.is_idle for f in self._forgetting):
            return
        for t in self._transforms:
            t.count("taken")
        own = self._own_steps()
        if not own:
            # Before the transforms: forgetting measures the step that the optimizer took.
            for forgetting in self._forgetting:
                forgetting.after_fit_step(optimizer)
            settle_noise(self._module)
            self._finish(step, self._transforms)
            return
        settle_noise(self._module)
        if step is not None:
            _apply(step, self.restrictions)
        del step  # its copy of the weights, before `_follow` makes another one
        for forgetting in self._forgetting:
            self._follow(forgetting, optimizer)

    def _follow(self, forgetting: Forgetting, optimizer: torch.optim.Optimizer) -> None:
        """Let ``forgetting`` take its own step after the fit's, and transform that."""
        own = forgetting.forget_optimizer
        step = None if own is None else self._begun(own, self._transforms)
        if forgetting.after_fit_step(optimizer):
            self._finish(step, self._transforms)

    def _finish(self, step: Step | None, transforms: Sequence[Link]) -> None:
        if step is not None:
            _apply(step, transforms)
            for t in transforms:
                t.count("transformed")

    @property
    def _module(self) -> pl.LightningModule:
        trainer = self._trainer()
        assert trainer is not None, "it is in the middle of a step"
        return trainer.lightning_module

    def _is_set_aside(self) -> bool:
        """Whether the trainer runs without its callbacks, as a learning-rate finder does in the middle of a fit."""
        members = {id(member) for member in [*self._transforms, *self._forgetting]}
        return not members & {id(c) for c in getattr(self._trainer(), "callbacks", [])}

    def _own_steps(self) -> list[Forgetting]:
        return [f for f in self._forgetting if f.forget_optimizer is not None]


def _apply(step: Step, transforms: Sequence[Link]) -> None:
    """By stage, but restrictions last; see :class:`Stage`."""
    for t in sorted(transforms, key=lambda t: t.stage == Stage.RESTRICT):
        t.after(step)
