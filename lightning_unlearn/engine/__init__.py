"""Extra gradients and inner products under every strategy: the only code that knows strategies."""

from lightning_unlearn.engine._add import add_gradient_, adds_in_place
from lightning_unlearn.engine._before_restore import before_restore
from lightning_unlearn.engine._captured import CapturedRows, CapturingPass
from lightning_unlearn.engine._combine import combine_
from lightning_unlearn.engine._decided_readout import decided_readout
from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._isolation import (
    each_pass_kept,
    isolated,
    isolated_but_for_weights,
    random_numbers_kept,
    remember_buffers,
    remember_python_state,
    state_kept,
)
from lightning_unlearn.engine._observed import ObservedGradient
from lightning_unlearn.engine._optimizer_state import load_optimizer_state, optimizer_state
from lightning_unlearn.engine._products import Row, inner_products
from lightning_unlearn.engine._scoped import sharding_groups, sum_by_scope
from lightning_unlearn.engine._set_aside import gradients_set_aside
from lightning_unlearn.engine._sharded_state import own_share, with_all_ranks
from lightning_unlearn.engine._strategy import is_fsdp1, strategy_kind
from lightning_unlearn.engine._trainer import (
    callbacks_of,
    refuse_manual_optimization,
    refuse_optimizers,
    refuse_tensor_parallel,
)
from lightning_unlearn.engine._unscaled import unscaled, unscales_by_itself, was_skipped
from lightning_unlearn.engine._whole import gathered, sharded_like, with_local

__all__ = [
    "CapturedRows",
    "CapturingPass",
    "GradientEngine",
    "ObservedGradient",
    "Row",
    "add_gradient_",
    "adds_in_place",
    "before_restore",
    "callbacks_of",
    "combine_",
    "decided_readout",
    "each_pass_kept",
    "gathered",
    "gradients_set_aside",
    "inner_products",
    "is_fsdp1",
    "isolated",
    "isolated_but_for_weights",
    "load_optimizer_state",
    "optimizer_state",
    "own_share",
    "random_numbers_kept",
    "refuse_manual_optimization",
    "refuse_optimizers",
    "refuse_tensor_parallel",
    "remember_buffers",
    "remember_python_state",
    "sharded_like",
    "sharding_groups",
    "state_kept",
    "strategy_kind",
    "sum_by_scope",
    "unscaled",
    "unscales_by_itself",
    "was_skipped",
    "with_all_ranks",
    "with_local",
]
