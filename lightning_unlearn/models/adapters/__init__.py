"""Adapters: what is trained in place of a network's weights."""

from lightning_unlearn.models.adapters._added_layer import AddedLayer, added_layers, added_switched_off, refuse_merging
from lightning_unlearn.models.adapters._base import Adapted, Adapter
from lightning_unlearn.models.adapters._experts import Experts
from lightning_unlearn.models.adapters._fold import fold_adapter_
from lightning_unlearn.models.adapters._token_mixing import TokenMixing

__all__ = [
    "Adapted",
    "Adapter",
    "AddedLayer",
    "Experts",
    "TokenMixing",
    "added_layers",
    "added_switched_off",
    "fold_adapter_",
    "refuse_merging",
]
