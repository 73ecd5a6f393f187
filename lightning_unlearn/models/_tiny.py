from __future__ import annotations

import torch
from torch import nn

from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models._checkpointing import checkpoint_activations


def TinyCausalLM(
    *,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    seed: int = 0,
    activation_checkpointing: bool = False,
) -> nn.Module:
    """Build a small, randomly initialised Llama for the bundled tokenizer: a network to try things on, no download.

    The default sizes make 0.65 M parameters, enough to learn the bundled facts by heart. The global random number
    generator is left as found.

    Args:
        hidden_size: Width, a multiple of 8; the feed-forward layers scale with it. Defaults to the bundled 128.
        num_hidden_layers: Number of blocks. Defaults to the bundled 3.
        seed: Of the weights.
        activation_checkpointing: As in :func:`PretrainedCausalLM`.

    Returns:
        A ``LlamaForCausalLM`` in float32, in training mode as every new module.

    Example:
        >>> network = TinyCausalLM(hidden_size=32, num_hidden_layers=1)
        >>> network(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 640])
    """
    from transformers import LlamaConfig, LlamaForCausalLM  # here, since it takes longer than all of this package

    config = LlamaConfig.from_pretrained(bundled_path())
    if hidden_size is not None:
        check_whole("hidden_size", hidden_size, why=", a multiple of 8")
        if hidden_size < 8 or hidden_size % 8:
            raise ValueError(f"`hidden_size` should be a positive multiple of 8. Found `hidden_size = {hidden_size}`.")
        config.intermediate_size = config.intermediate_size * hidden_size // config.hidden_size
        config.head_dim = hidden_size // config.num_attention_heads
        config.hidden_size = hidden_size
    if num_hidden_layers is not None:
        check_whole("num_hidden_layers", num_hidden_layers)
        config.num_hidden_layers = num_hidden_layers
    with torch.random.fork_rng(devices=[]):
        # `torch.manual_seed` would seed the accelerators as well, which are not forked here.
        torch.default_generator.manual_seed(seed)
        network: nn.Module = LlamaForCausalLM(config)
    if activation_checkpointing:
        checkpoint_activations(network)
    return network
