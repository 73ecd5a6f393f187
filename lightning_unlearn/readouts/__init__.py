"""How to run a network on a batch."""

from lightning_unlearn.readouts._base import Readout, content_key
from lightning_unlearn.readouts._causal_lm import CausalLMReadout
from lightning_unlearn.readouts._classification import ClassificationReadout
from lightning_unlearn.readouts._language_model import is_language_model
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout

__all__ = [
    "Readout",
    "CausalLMReadout",
    "PackedCausalLMReadout",
    "ClassificationReadout",
    "content_key",
    "is_language_model",
]
