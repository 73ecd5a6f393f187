from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lightning_unlearn.engine import GradientEngine, Row, gradients_set_aside, load_optimizer_state, optimizer_state
from lightning_unlearn.forgetting._realised_step import RealisedStep


class PrivateStep:
    """An optimizer for the forget gradient alone, which steps right after the fit's.

    Args:
        engine: Knows how parameters are sharded.
        make: From parameters to an optimizer.
        theirs: The optimizer of the fit, whose parameters are used.

    Raises:
        TypeError: If ``make`` does not return an optimizer.
        NotImplementedError: If it returns one that evaluates its closure many times a step.
    """

    def __init__(self, engine: GradientEngine, make: OptimizerCallable, theirs: torch.optim.Optimizer) -> None:
        self._engine = engine
        params = [p for group in theirs.param_groups for p in group["params"]]
        self._known = set(params)
        self.optimizer = make(params)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                "`Unlearn(optimizer=...)` should make an optimizer from parameters, as `torch.optim.SGD` does. It made "
                f"`{self.optimizer!r}`."
            )
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise NotImplementedError(
                "`Unlearn(optimizer=...)` should take one gradient a step. Found `LBFGS`. Use `AdamW` or `SGD`."
            )
        self.realised: float | None = None
        self._realised = RealisedStep()
        # The row of a step that has not been taken yet: one more gradient's memory.
        self._held: list[tuple[Tensor, Tensor | None]] | None = None
        self._measured = False

    def cover(self, theirs: torch.optim.Optimizer) -> None:
        """Take in parameters that were added to the fit's optimizer since. They join the last group."""
        # Not a group of their own: a resumed fit may find them from the start, and its groups must be those of the state.
        added = [p for group in theirs.param_groups for p in group["params"] if p not in self._known]
        self.optimizer.param_groups[-1]["params"].extend(added)
        self._known.update(added)

    def hold(self, params: Sequence[Tensor], row: Row, *, measured: bool) -> None:
        """Keep the forget gradient ``row`` until the fit's optimizer has stepped. It replaces that of a skipped step."""
        # A parameter that was added after the forward pass joins in the next step.
        self._held = [(p, g) for p, g in zip(params, row, strict=True) if p in self._known]
        self._measured = measured

    def take_(self) -> bool:
        """Step along the kept gradient. Returns whether there was one. ``p.grad`` is left as it was, the same tensors."""
        # `None` if a gradient scaler skipped the step before; taken off first, so that no gradient is used twice.
        held, self._held = self._held, None
        self.realised = None
        if held is None:
            return False
        with gradients_set_aside(self._engine.module, self._known):
            for param, gradient in held:
                param.grad = gradient
            if self._measured:
                self._realised.before(self.optimizer, [p for g in self.optimizer.param_groups for p in g["params"]])
            self.optimizer.step()
            self.realised = self._realised.after(self.optimizer)  # now, before guards correct the step
        return True

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer. Collective: every rank must call it."""
        return optimizer_state(self._engine, self.optimizer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint left off. Each rank takes its shards."""
        load_optimizer_state(self._engine, self.optimizer, state)
