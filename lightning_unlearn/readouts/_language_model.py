"""What is known of a Hugging Face language model, whatever PEFT and ``torch.compile`` have wrapped around it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def is_language_model(module: nn.Module) -> bool:
    """Whether ``module`` is a Hugging Face model with a language-model head, or a PEFT model around one."""
    from transformers import PreTrainedModel

    base = base_model(module)
    return isinstance(base, PreTrainedModel) and (output_head(base) is not None or "CausalLM" in type(base).__name__)


def base_model(network: nn.Module) -> nn.Module:
    """The Hugging Face model itself."""
    network = getattr(network, "_orig_mod", network)
    if hasattr(network, "peft_config") and hasattr(network, "get_base_model"):
        network = network.get_base_model()  # type: ignore[operator]  # PeftModel's
    return getattr(network, "_orig_mod", network)


def output_head(network: nn.Module) -> nn.Module | None:
    """What turns hidden states into logits, with its adapter, if it can be found."""
    try:
        head = network.get_output_embeddings()  # type: ignore[operator]  # a method of every Hugging Face model
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, nn.Module) else None


def inputs_of(network: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``batch`` the model takes; a ``forward`` with ``**kwargs`` would pass anything down to its attention."""
    from transformers.utils import TransformersKwargs

    named = inspect.signature(base_model(network).forward).parameters
    taken = {*named, *TransformersKwargs.__annotations__} - {"labels", "use_cache"}
    inputs = {name: value for name, value in batch.items() if name in taken}
    return {**inputs, "use_cache": False} if "use_cache" in named else inputs


def refuse_not_causal(network: nn.Module) -> None:
    """Refuse models whose labels are not their next tokens: they would run, and learn nonsense."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    base = base_model(network)
    name = type(base).__name__
    encodes = getattr(getattr(base, "config", None), "is_encoder_decoder", False)
    if encodes or (name in MASKED.values() and name not in CAUSAL.values()):
        kind = "an encoder-decoder" if encodes else "a masked language model"
        raise ValueError(
            f"`CausalLMReadout` should get a model that predicts each next token from those before. Found `{name}`, {kind}. "
            "Write a `Readout` of your own for it: one `Prediction` from a network and a batch."
        )


def eager_if_compiled(network: nn.Module, head: nn.Module | None) -> AbstractContextManager[Any]:
    """Run compiled parts eagerly if ``head`` is inside one of them.

    A hook put on an already compiled module is silently ignored, and one that is there while a module is compiled stays.
    """
    compiled = (m for m in network.modules() if m._compiled_call_impl is not None or hasattr(m, "_orig_mod"))
    inside = head is not None and any(part is head for module in compiled for part in module.modules())
    return torch.compiler.set_stance("force_eager") if inside else nullcontext()
