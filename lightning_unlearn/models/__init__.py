"""Networks to unlearn from."""

from lightning_unlearn.models._adapter_start import moved_from_start, start_again_
from lightning_unlearn.models._checkpoint_file import explain_checkpoint
from lightning_unlearn.models._lora import LoRA
from lightning_unlearn.models._low_bit_state import loads_low_bit
from lightning_unlearn.models._merged import merged
from lightning_unlearn.models._pretrained import PretrainedCausalLM, pretrained_tokenizer
from lightning_unlearn.models._targets import Targets
from lightning_unlearn.models._tiny import TinyCausalLM
from lightning_unlearn.models._tokenizer import load_tokenizer
from lightning_unlearn.models._weight_files import find_weights, read_weights
from lightning_unlearn.models._weights import load_weights, match_weights, swapped_weights, without_prefix
from lightning_unlearn.models._written import refuse_other_adapter, refuse_other_form, refuse_other_weights, savable
from lightning_unlearn.models.adapters import Adapted, Adapter, Experts, TokenMixing, fold_adapter_
from lightning_unlearn.models.vision import ImageCausalLM, PatchEncoder, ResNet20, TinyViT

__all__ = [
    "Adapted",
    "Adapter",
    "Experts",
    "ImageCausalLM",
    "LoRA",
    "PatchEncoder",
    "PretrainedCausalLM",
    "ResNet20",
    "Targets",
    "TinyCausalLM",
    "TinyViT",
    "TokenMixing",
    "explain_checkpoint",
    "find_weights",
    "fold_adapter_",
    "load_tokenizer",
    "load_weights",
    "loads_low_bit",
    "match_weights",
    "merged",
    "moved_from_start",
    "pretrained_tokenizer",
    "read_weights",
    "refuse_other_adapter",
    "refuse_other_form",
    "refuse_other_weights",
    "savable",
    "start_again_",
    "swapped_weights",
    "without_prefix",
]
