"""Networks to unlearn from."""

from lightning_unlearn.models._lora import LoRA
from lightning_unlearn.models._pretrained import PretrainedCausalLM, pretrained_tokenizer
from lightning_unlearn.models._tiny import TinyCausalLM

__all__ = ["LoRA", "PretrainedCausalLM", "TinyCausalLM", "pretrained_tokenizer"]
