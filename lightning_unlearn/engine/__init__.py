"""Extra gradients and inner products under every strategy: the only code that knows strategies."""

from lightning_unlearn.engine._add import add_gradient_, adds_in_place
from lightning_unlearn.engine._before_restore import before_restore
from lightning_unlearn.engine._captured import CapturedRows, CapturingPass
from lightning_unlearn.engine._coarse_weights import refuse_coarse_weights
from lightning_unlearn.engine._combine import combine_
from lightning_unlearn.engine._decided_readout import decided_readout
from lightning_unlearn.engine._first_reading import Left, left_by
from lightning_unlearn.engine._full_precision import in_full_precision
from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._hessian_product import hessian_product, move_, moved_weights
from lightning_unlearn.engine._isolation import (
    each_pass_kept,
    isolated,
    isolated_but_for_weights,
    random_numbers_kept,
    remember_buffers,
    remember_python_state,
    state_kept,
)
from lightning_unlearn.engine._joined import JoinedProcesses, is_joined, joined_strategy
from lightning_unlearn.engine._learning_rate import learning_rate, refuse_own_rates
from lightning_unlearn.engine._observed import ObservedGradient
from lightning_unlearn.engine._optimizer_state import load_optimizer_state, optimizer_state
from lightning_unlearn.engine._products import Row, inner_products
from lightning_unlearn.engine._scoped import sharding_groups, sum_by_scope
from lightning_unlearn.engine._set_aside import gradients_set_aside
from lightning_unlearn.engine._sharded_state import own_share, with_all_ranks
from lightning_unlearn.engine._shared_pass import OwnPass, PrecededPass, SharedPass, offer_pass, taken_pass
from lightning_unlearn.engine._shown import has_seen_bar, tell
from lightning_unlearn.engine._sizes import root_mean_squares
from lightning_unlearn.engine._strategy import is_fsdp1, kind_of_strategy, strategy_kind
from lightning_unlearn.engine._trainer import (
    callbacks_of,
    keep_original,
    refuse_manual_optimization,
    refuse_optimizers,
    refuse_sparse_gradients,
    refuse_tensor_parallel,
    refuse_two_sets_of_weights,
    show_original,
)
from lightning_unlearn.engine._unscaled import unscaled, unscales_by_itself, was_skipped
from lightning_unlearn.engine._whole import gathered, sharded_like, with_local
from lightning_unlearn.engine._written_in_forward import written_in_forward
from lightning_unlearn.runtime import WeightNoise, clean_weights, settle_noise

__all__ = [
    "CapturedRows",
    "CapturingPass",
    "GradientEngine",
    "JoinedProcesses",
    "Left",
    "ObservedGradient",
    "OwnPass",
    "PrecededPass",
    "Row",
    "SharedPass",
    "WeightNoise",
    "add_gradient_",
    "adds_in_place",
    "before_restore",
    "callbacks_of",
    "clean_weights",
    "combine_",
    "decided_readout",
    "each_pass_kept",
    "gathered",
    "gradients_set_aside",
    "has_seen_bar",
    "hessian_product",
    "in_full_precision",
    "inner_products",
    "is_fsdp1",
    "is_joined",
    "isolated",
    "isolated_but_for_weights",
    "joined_strategy",
    "keep_original",
    "kind_of_strategy",
    "learning_rate",
    "left_by",
    "load_optimizer_state",
    "move_",
    "moved_weights",
    "offer_pass",
    "optimizer_state",
    "own_share",
    "random_numbers_kept",
    "refuse_coarse_weights",
    "refuse_manual_optimization",
    "refuse_optimizers",
    "refuse_own_rates",
    "refuse_sparse_gradients",
    "refuse_tensor_parallel",
    "refuse_two_sets_of_weights",
    "remember_buffers",
    "remember_python_state",
    "root_mean_squares",
    "settle_noise",
    "sharded_like",
    "sharding_groups",
    "show_original",
    "state_kept",
    "strategy_kind",
    "sum_by_scope",
    "taken_pass",
    "tell",
    "unscaled",
    "unscales_by_itself",
    "was_skipped",
    "with_all_ranks",
    "with_local",
    "written_in_forward",
]
