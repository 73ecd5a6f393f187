"""Facts about a Hugging Face language model, also inside wrappers of PEFT and ``torch.compile``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_unlearn.models.layers import base_model, output_head, refuse_looking_ahead
from lightning_unlearn.readouts._padding import known_ids, positions_of


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
    given = {**known_ids(network, batch), **positions_of(network, batch)}
    inputs = {name: value for name, value in given.items() if name in taken}
    # Some models give the logits of the last position only, if they are not told otherwise.
    inputs |= {name: 0 for name in ("logits_to_keep", "num_logits_to_keep") if name in named and named[name].default}
    return {**inputs, "use_cache": False} if "use_cache" in named else inputs


def is_encoder_decoder(module: nn.Module) -> bool:
    """Whether ``module`` is a Hugging Face model with a language-model head, and an encoder for its input."""
    return is_language_model(module) and bool(getattr(base_model(module).config, "is_encoder_decoder", False))


def is_causal(module: nn.Module) -> bool:
    """Whether ``module`` is a Hugging Face language model that predicts each next token from those before."""
    return is_language_model(module) and _other_kind(module) is None


def refuse_not_causal(network: nn.Module) -> None:
    """Refuse models that do not predict the next token: they would run with shifted labels, and learn nonsense."""
    if (kind := _other_kind(network)) is not None:
        raise ValueError(
            "`CausalLMReadout` should get a model that predicts each next token from those before. Found "
            f"`{type(base_model(network)).__name__}`, {kind}. An encoder-decoder wants `EncoderDecoderReadout()`. "
            "In a LightningModule of yours leave `readout` out, or use `TrainingStepReadout()`: your own loss is what is "
            "forgotten."
        )


def find_causal(module: nn.Module) -> nn.Module:
    """The first PEFT or Hugging Face model inside ``module``, outermost first. Refused if it is not causal."""
    for candidate in module.modules():
        if is_language_model(candidate):
            refuse_not_causal(candidate)
            refuse_looking_ahead(candidate)
            return candidate
    raise ValueError(
        f"`CausalLMReadout` should find a Hugging Face model inside the module. Found none in `{type(module).__name__}`."
        " Use the readout that fits your network, for example `ClassificationReadout()`."
    )


def _other_kind(network: nn.Module) -> str | None:
    """What a language model is that is not causal."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    name = type(base_model(network)).__name__
    if getattr(getattr(base_model(network), "config", None), "is_encoder_decoder", False):
        return "an encoder-decoder"
    return "a masked language model" if name in MASKED.values() and name not in CAUSAL.values() else None
