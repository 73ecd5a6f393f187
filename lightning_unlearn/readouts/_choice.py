from __future__ import annotations

from torch import nn

from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._classification import ClassificationReadout
from lightning_unlearn.readouts._language_model import is_language_model
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout


def choose_readout(module: nn.Module) -> Readout:
    """The module's own ``readout``, if it has one; else one for a language model, if it holds one; else for a classifier."""
    if isinstance(own := getattr(module, "readout", None), Readout):
        return own
    return PackedCausalLMReadout() if any(is_language_model(m) for m in module.modules()) else ClassificationReadout()
