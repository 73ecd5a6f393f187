"""What a network's layers are: its blocks, weight matrices, adapters, head and compiled parts. Questions only."""

from lightning_unlearn.models.layers._adapters import (
    LowRankFactors,
    adapters,
    adapters_around,
    factor_modules,
    in_adapter,
    low_rank_factors,
    only_adds,
    original_name,
    replaced_modules,
    starts_at_zero,
)
from lightning_unlearn.models.layers._blocks import blocks
from lightning_unlearn.models.layers._compiled import eager_if_compiled, eager_if_inside_compiled, is_compiled
from lightning_unlearn.models.layers._head import base_model, input_embedding, is_tied, output_head, output_heads
from lightning_unlearn.models.layers._layout import Layout
from lightning_unlearn.models.layers._linear import is_linear, is_transposed, sizes
from lightning_unlearn.models.layers._look_ahead import refuse_looking_ahead
from lightning_unlearn.models.layers._low_bit import count, dequantized, is_low_bit
from lightning_unlearn.models.layers._matrices import covered_share, matrices, own_matrices, placed_matrices
from lightning_unlearn.models.layers._matrix import Matrix
from lightning_unlearn.models.layers._names import name_fits, plain_name
from lightning_unlearn.models.layers._one_module import one_module
from lightning_unlearn.models.layers._trained import is_trained, trained_share

__all__ = [
    "Layout",
    "LowRankFactors",
    "Matrix",
    "adapters",
    "adapters_around",
    "base_model",
    "blocks",
    "count",
    "covered_share",
    "dequantized",
    "eager_if_compiled",
    "eager_if_inside_compiled",
    "factor_modules",
    "in_adapter",
    "input_embedding",
    "is_compiled",
    "is_linear",
    "is_low_bit",
    "is_tied",
    "is_trained",
    "is_transposed",
    "low_rank_factors",
    "matrices",
    "name_fits",
    "one_module",
    "only_adds",
    "original_name",
    "output_head",
    "output_heads",
    "own_matrices",
    "placed_matrices",
    "plain_name",
    "refuse_looking_ahead",
    "replaced_modules",
    "sizes",
    "starts_at_zero",
    "trained_share",
]
