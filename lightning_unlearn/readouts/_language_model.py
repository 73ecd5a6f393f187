"""Facts about a Hugging Face language model, also inside wrappers of PEFT and ``torch.compile``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_unlearn.models.layers import base_model, output_head


def is_language_model(module: nn.Module) -> bool:
    """Whether ``module`` is a Hugging Face model with a language-model head, or a PEFT model around one."""
    from transformers import PreTrainedModel

    base = base_model(module)
    return isinstance(base, PreTrainedModel) and (output_head(base) is not None or "CausalLM" in type(base).__name__)


def inputs_of(network: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``batch`` that the model takes. Others may not be passed: ``**kwargs`` go down to its attention."""
    from transformers.utils import TransformersKwargs

    named = inspect.signature(base_model(network).forward).parameters
    # Without labels: the model would compute a loss of its own. Without a cache: keys and values are of no use later.
    taken = {*named, *TransformersKwargs.__annotations__} - {"labels", "use_cache"}
    inputs = {name: value for name, value in batch.items() if name in taken}
    return {**inputs, "use_cache": False} if "use_cache" in named else inputs


def refuse_not_causal(network: nn.Module) -> None:
    """Refuse models that do not predict the next token: they would run with shifted labels, and learn nonsense."""
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
