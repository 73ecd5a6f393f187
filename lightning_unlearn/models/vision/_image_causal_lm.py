from __future__ import annotations

from typing import Any

from torch import nn

from lightning_unlearn.models.layers import base_model
from lightning_unlearn.models.vision._patch_encoder import PatchEncoder


def ImageCausalLM(language_model: nn.Module, encoder: PatchEncoder) -> nn.Module:
    """Put an image before the tokens of a causal language model: a class in YAML, a function in Python.

    The encoder's ``P`` positions, projected to the width of the language model, stand before the embeddings of the tokens.
    A batch is that of any language model with ``pixel_values [B, C, H, W]`` beside its tokens; without them it is the
    language model alone. Logits are ``[B, P + T, V]``, and labels are those of the ``T`` tokens: readouts count from the
    end, and so does the model's own loss. Everything is trained: freeze parts with :class:`TrainOnly`, or put an adapter
    around the whole, ``LoRA().wrap(network)``.

    Args:
        language_model: A causal language model of transformers that takes ``inputs_embeds``, without an adapter.
        encoder: From images to positions.

    Returns:
        A ``transformers.PreTrainedModel`` around the weights that were given, which are not copied. What it saves with
        ``save_pretrained`` loads with ``type(network).from_pretrained(folder)``; no ``Auto`` class knows it.

    Raises:
        ValueError: If the language model has an adapter, or is none of transformers.

    Example:
        >>> import torch
        >>> from lightning_unlearn import TinyCausalLM
        >>> network = ImageCausalLM(TinyCausalLM(hidden_size=32), PatchEncoder(size=8, patch=4))
        >>> network(torch.tensor([[5, 6, 7]]), pixel_values=torch.zeros(1, 1, 8, 8)).logits.shape
        torch.Size([1, 7, 640])

    References:
        Liu et al., `Visual Instruction Tuning <https://arxiv.org/abs/2304.08485>`_, 2023, whose images are positions
        among the tokens as well.
    """
    from lightning_unlearn.models.vision._image_text import ImageTextModel, config_of

    model: Any = language_model
    if hasattr(model, "peft_config"):
        raise ValueError(
            "`language_model` should have no adapter. Found a "
            f"`{type(model).__name__}`. Put it around the whole: `LoRA().wrap(ImageCausalLM(language_model, encoder))`."
        )
    if not hasattr(base_model(model), "get_input_embeddings") or not hasattr(model, "config"):
        raise ValueError(
            "`language_model` should be a causal language model of transformers. Found a "
            f"`{type(model).__name__}`. Use `PretrainedCausalLM(...)` or `TinyCausalLM()`."
        )
    return ImageTextModel(config_of(model, encoder), model, encoder)
