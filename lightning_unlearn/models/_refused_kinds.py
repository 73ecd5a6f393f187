"""Checkpoints that load as a causal language model, and are none, or only a part of one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

_SHOWN = 3
_ITS_OWN = "in a module or readout of your own"


def refuse_other_kinds(what: str, config: Any) -> None:
    """Refuse, before weights are read, a model that is no decoder alone, that looks ahead, or that is in few bits.

    Args:
        what: Where it is from, for errors.
        config: Of transformers, as it is in the checkpoint.

    Raises:
        ValueError: With the kind that was found, and a way to use it.
    """
    kind = _encoder_decoder(config) or _looks_ahead(config) or _only_with_images(config)
    if kind is not None:
        found, way = kind
        raise ValueError(
            "`path_or_id` should be a causal language model, which predicts each token from those before it. Found "
            f"{what!r}, {found}. {way}"
        )
    _refuse_few_bits(what, config)


def refuse_made_up_weights(what: str, network: Any, loading: Mapping[str, Collection[Any]]) -> None:
    """Refuse a network some of whose weights were not in its checkpoint, and say which in it were not used.

    Raises:
        ValueError: If weights were drawn at random.
    """
    if missing := sorted(map(str, loading.get("missing_keys") or ())):
        raise ValueError(
            f"A checkpoint should hold all weights of its model. Found none for {len(missing)} in {what!r}: "
            f"{_first(missing)}. They would be random, as a head is that was never trained. Give a checkpoint of "
            f"`{type(network).__name__}`; or train these weights first, and save the whole."
        )
    if unused := sorted(map(str, loading.get("unexpected_keys") or ())):
        rank_zero_warn(
            f"A checkpoint should hold weights of its model alone. Found {len(unused)} in {what!r} that "
            f"`{type(network).__name__}` has no place for: {_first(unused)}. They are left out; if they matter, load the "
            "model by its own class, and give it as the network."
        )


def _first(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _encoder_decoder(config: Any) -> tuple[str, str] | None:
    if not getattr(config, "is_encoder_decoder", False):
        return None
    return (
        f"an encoder with a decoder (`{config.model_type}`), of which the decoder alone would be loaded",
        f"Load it with `AutoModelForSeq2SeqLM.from_pretrained`, and give it as the network, {_ITS_OWN}.",
    )


def _looks_ahead(config: Any) -> tuple[str, str] | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    # XLM has `causal` for it; what else fills in masked tokens is a decoder by its settings alone.
    decodes = getattr(config, "is_decoder", getattr(config, "causal", False))
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes
    text = config.get_text_config()
    both_ways = text.to_dict().get("attn_type") == "bi" or text.to_dict().get("use_bidirectional_attention") is True
    if not masked and not both_ways:
        return None
    return (
        f"whose tokens attend to those behind them (`{config.model_type}`): it reads the answers that it is asked for",
        f"If it was trained as a decoder, set `is_decoder` in its `config.json`. Or load it with `AutoModelForMaskedLM`, "
        f"and give it as the network, {_ITS_OWN}.",
    )


def _only_with_images(config: Any) -> tuple[str, str] | None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    own = getattr(config, "auto_map", None) or {}  # code of its own may say otherwise
    kind = config.model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or own:
        return None
    return (
        f"a model of images and text (`{kind}`), with a language model inside",
        "Load it with `AutoModelForImageTextToText.from_pretrained`, and give it as the network: "
        "`UnlearningModule(network, readout=CausalLMReadout())`; `LoRA().wrap(network)` puts an adapter around it.",
    )


def _refuse_few_bits(what: str, config: Any) -> None:
    method = few_bits(config)
    if method is not None and method != "bitsandbytes":
        raise ValueError(
            f"`path_or_id` should hold plain weights, or those of bitsandbytes. Found {what!r} in few bits, by {method!r}, "
            "through which no gradient is known to be right. Give the checkpoint that it was made from; or dequantise it "
            "and save it anew, where transformers can: `AutoModelForCausalLM.from_pretrained(path, "
            "quantization_config=...(dequantize=True)).save_pretrained(folder)`."
        )


def few_bits(config: Any) -> str | None:
    """How a checkpoint was quantised, by the name that transformers has for it; ``None`` if it was not."""
    settings: Any = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    settings = settings if isinstance(settings, Mapping) else settings.to_dict()
    method = settings.get("quant_method", "an unknown method")
    return str(getattr(method, "value", method))
