from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_unlearn.engine import Row, was_skipped
from lightning_unlearn.transforms._step import Step


class Stage(IntEnum):
    """What a transform does to a step; a later stage works within what the earlier ones allow.

    A rule corrects within the directions that restrictions leave; a gate picks from what the rule made of the step. To make
    that true in every metric and after every gate, restrictions are *applied* last: they are linear and let through what
    respects them already, so that nothing another stage did leaves them.
    """

    RESTRICT = 1
    RULE = 2
    GATE = 3
    PROXIMAL = 4
    NOISE = 5


class Link(Protocol):
    """What the chain asks of a transform; :class:`StepTransform` brings it."""

    @property
    def stage(self) -> Stage: ...
    def wanted(self, step: Step) -> Sequence[Sequence[Tensor]]: ...
    def before(self, step: Step) -> None: ...
    def after(self, step: Step) -> None: ...
    def allowed(self, direction: Row, params: Sequence[Tensor]) -> Row: ...
    def leaves_alone(self, param: Tensor) -> bool: ...
    def count(self, what: str) -> None: ...


class Forgetting(Protocol):
    """What the chain asks of a callback that forgets: it measures the fit's step, or follows it with one of its own."""

    @property
    def forget_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer of its own, if it has one."""
        ...

    def after_fit_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """The fit's optimizer has stepped; whether a step of its own followed."""
        ...


class StepChain:
    """The one owner of the optimizer's hook, and of the one copy of the weights before a step.

    Each trainer has one, to which callbacks contribute themselves in ``setup``, so that none has to know another::

        on_before_optimizer_step   each transform says that it is ready; at the last one, the weights are copied
        the fit's optimizer steps  weights move
        our hook, the last one     forgetting measures the step, and takes its own, if it has an optimizer of its own
                                   transforms change the step that is guarded, by stage; restrictions last

    The step that is guarded is that of forgetting's own optimizer if there is one, else the fit's. Restrictions hold for
    both: then the fit's step is restricted first, that copy let go, and the weights copied anew for the step that follows.
    """

    _chains: ClassVar[WeakKeyDictionary[pl.Trainer, StepChain]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._transforms: list[Link] = []
        self._forgetting: list[Forgetting] = []
        self._ready: set[int] = set()
        self._step: Step | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._handle: Any = None

    @classmethod
    def of(cls, trainer: pl.Trainer) -> StepChain:
        """The chain of this trainer's fit."""
        return cls._chains.setdefault(trainer, cls())

    @classmethod
    def close(cls, trainer: pl.Trainer) -> None:
        """The fit is over, whichever way it ended: leave no hook, no copy and no callback behind."""
        chain = cls._chains.pop(trainer, None)
        if chain is not None:
            chain._step = None
            if chain._handle is not None:
                chain._handle.remove()

    def add(self, transform: Link) -> None:
        """Take up a transform: by stage, within a stage in the order of the callbacks."""
        if not any(transform is t for t in self._transforms):
            self._transforms = sorted([*self._transforms, transform], key=lambda t: t.stage)

    def add_forgetting(self, forgetting: Forgetting) -> None:
        """Take up a callback that forgets."""
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
        """Whose step is guarded: that of forgetting alone if there is one, else that of the fit's ``optimizer``."""
        return next((f.forget_optimizer for f in self._own_steps()), None) or optimizer

    def refuse_several_steps(self, who: str) -> None:
        """Refuse to transform one forget step of several: the others would do the harm."""
        apart = len(self._own_steps())
        if apart and len(self._forgetting) > 1:
            raise NotImplementedError(
                f"`{who}` should find all forgetting in one step: an `Unlearn(optimizer=...)` by itself, or any number of "
                f"`Unlearn` without. Found {len(self._forgetting)} `Unlearn`, {apart} of them with an optimizer of its own. "
                "Leave out `optimizer`, and the whole step is guarded."
            )

    @property
    def restrictions(self) -> list[Link]:
        """What keeps steps within a subspace, or off some parameters."""
        return [t for t in self._transforms if t.stage == Stage.RESTRICT]

    @property
    def is_restricted(self) -> bool:
        """Whether anything does."""
        return bool(self.restrictions)

    def leaves_alone(self, param: Tensor) -> bool:
        """Whether some restriction keeps ``param`` as it is, bit for bit."""
        return any(t.leaves_alone(param) for t in self.restrictions)

    def ready(self, transform: Link, optimizer: torch.optim.Optimizer) -> None:
        """``transform`` has what it needs for the step that comes; when all have, the step begins.

        A step that was begun and never taken, since a gradient scaler found infinities, is dropped when the next one begins.
        """
        self._ready.add(id(transform))
        if len(self._ready) < len(self._transforms):
            return
        self._ready.clear()
        self._step = None  # its memory is free before the next copy is made
        self._step = self._begun(optimizer, self.restrictions if self._own_steps() else self._transforms)
        if self._handle is not None:
            # Others have put hooks on the optimizer since, which should see the step that was proposed, and not ours.
            hooks: Any = optimizer._optimizer_step_post_hooks  # an ordered dictionary
            hooks.move_to_end(self._handle.id)

    def _begun(self, optimizer: torch.optim.Optimizer, transforms: Sequence[Link]) -> Step:
        step = Step(optimizer, [t.allowed for t in self.restrictions])
        groups = [group for t in transforms for group in t.wanted(step)]
        # Vectors of many first: who needs one of these parameters alone gets a view of them, and no second copy.
        for group in sorted(groups, key=len, reverse=True):
            step.snapshot.keep(group)
        for t in transforms:
            t.before(step)
        return step

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        step, self._step = self._step, None
        # Fused optimizers are called, and so is this hook, also where a gradient scaler found infinities; others are not.
        if was_skipped(optimizer):
            return
        for t in self._transforms:
            t.count("taken")
        own = self._own_steps()
        if not own:
            for forgetting in self._forgetting:
                forgetting.after_fit_step(optimizer)
            self._finish(step, self._transforms)
            return
        if step is not None:
            _apply(step, self.restrictions)
        del step
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

    def _own_steps(self) -> list[Forgetting]:
        return [f for f in self._forgetting if f.forget_optimizer is not None]


def _apply(step: Step, transforms: Sequence[Link]) -> None:
    """By stage, but restrictions last; see :class:`Stage`."""
    for t in sorted(transforms, key=lambda t: t.stage == Stage.RESTRICT):
        t.after(step)
