from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.models.adapters._added_layer import AddedLayer, device_of, drawn, put_around, zeros
from lightning_unlearn.models.adapters._base import Adapter
from lightning_unlearn.models.layers import base_model, sizes


class TokenMixing(Adapter):
    r"""A low-rank adapter in whose few dimensions tokens look at those before them: a reconstruction of ALoRA.

    The paper's code could not be had; how the parts are wired follows its abstract and a digest.

    .. math:: z = A x, \qquad h = W x + \frac{\alpha}{r} B \bigl(z + \mathrm{MHA}_\mathrm{causal}(z, z, z)\bigr)

    ``B`` is zero at first, so that nothing is added. What is added to a token depends on the tokens before it, and is no
    matrix: merging is refused by name, and attacks that round weights meet the network with its adapter. Memory and time
    grow with the square of the length.

    Padding goes behind the text, where causal attention does not see it. With a cache of keys a layer would see the newest
    token alone: ``use_cache`` is switched off in the network's configuration. :class:`Generation` notices by itself, and
    computes whole passes.

    Args:
        r: Rank, a multiple of ``heads``.
        alpha: Numerator of the scale.
        heads: Of the attention.
        layers: ``fnmatch`` patterns of names of linear layers, as in :class:`TrainOnly`. Defaults to queries and values.
        seed: Of the start; random states stay as they were.

    Raises:
        ValueError: When it wraps, if a pattern fits no linear layer, or there is another adapter.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> network = TokenMixing(r=4).wrap(TinyCausalLM(hidden_size=32, num_hidden_layers=1))
        >>> sum("lora_B" in name for name, _ in network.named_parameters())
        2

    References:
        `ALoRA <https://arxiv.org/abs/2405.17830>`_, 2024, by its abstract.
    """

    def __init__(
        self,
        r: int = 8,
        alpha: float = 16.0,
        heads: int = 2,
        layers: str | list[str] | None = None,
        seed: int = 0,
    ) -> None:
        check_whole("r", r)
        check_positive("alpha", alpha)
        check_whole("heads", heads)
        if r % heads:
            raise ValueError(f"`r` should be a multiple of `heads`. Found `r = {r}`, `heads = {heads}`.")
        self.r, self.alpha, self.heads, self.seed = r, alpha, heads, seed
        self.layers = ["q_proj", "v_proj"] if layers is None else layers

    @override
    def wrap(self, network: nn.Module) -> nn.Module:
        put_around(
            network,
            self.layers,
            lambda layer, generator: MixingLayer(layer, self.r, self.alpha / self.r, self.heads, generator),
            self.seed,
        )
        model: Any = base_model(network)
        settings: Any
        for settings in (getattr(model, "config", None), getattr(model, "generation_config", None)):
            if hasattr(settings, "use_cache"):
                settings.use_cache = False
        return network


class MixingLayer(AddedLayer):
    """A linear layer with an adapter that mixes tokens.

    Args:
        base_layer: The layer inside.
        r: Rank.
        scale: Of what is added.
        heads: Of the attention.
        generator: For the start.
    """

    why_not_merged: ClassVar[str] = "what it adds to a token depends on the tokens before it"

    def __init__(self, base_layer: nn.Module, r: int, scale: float, heads: int, generator: torch.Generator) -> None:
        super().__init__(base_layer)
        self.scale, self.heads = scale, heads
        inputs, outputs = sizes(base_layer)
        device = device_of(base_layer)
        self.lora_A = drawn(r, inputs, inputs=inputs, generator=generator, device=device)
        self.lora_mix = drawn(3 * r, r, inputs=r, generator=generator, device=device)
        self.lora_out = drawn(r, r, inputs=r, generator=generator, device=device)
        self.lora_B = zeros(outputs, r, device=device)

    @override
    def added(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 3:
            raise ValueError(
                f"A layer of `TokenMixing` should get tokens in rows, [B, T, in]. Found shape {tuple(inputs.shape)}. Leave "
                "such layers out, by `layers`."
            )
        narrow = inputs @ self.lora_A.T
        split = (narrow @ self.lora_mix.T).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        together = narrow + mixed.transpose(1, 2).flatten(2) @ self.lora_out.T
        return self.scale * (together @ self.lora_B.T)
