"""Networks to unlearn from."""

from lightning_unlearn.models._checkpoint_file import explain_checkpoint
from lightning_unlearn.models._lora import LoRA
from lightning_unlearn.models._pretrained import PretrainedCausalLM, pretrained_tokenizer
from lightning_unlearn.models._tiny import TinyCausalLM
from lightning_unlearn.models._tokenizer import load_tokenizer
from lightning_unlearn.models._weight_files import find_weights, read_weights
from lightning_unlearn.models._weights import (
    load_weights,
    match_weights,
    refuse_rounded_weights,
    swapped_weights,
    without_prefix,
)

__all__ = [
    "LoRA",
    "PretrainedCausalLM",
    "TinyCausalLM",
    "explain_checkpoint",
    "find_weights",
    "load_tokenizer",
    "load_weights",
    "match_weights",
    "pretrained_tokenizer",
    "read_weights",
    "refuse_rounded_weights",
    "swapped_weights",
    "without_prefix",
]
