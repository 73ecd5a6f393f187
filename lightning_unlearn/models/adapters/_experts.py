from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.models.adapters._added_layer import AddedLayer, device_of, drawn, put_around, zeros
from lightning_unlearn.models.adapters._base import Adapter
from lightning_unlearn.models.layers import input_embedding, sizes


class Experts(Adapter):
    r"""Several low-rank adapters on each layer, some to forget in and some to retain in, and a router between them.

    .. math:: h = W x + \frac{\alpha}{r} \sum_{e} p_e(x) \, B_e A_e x, \qquad p(x) = \mathrm{softmax}(R x)

    over all experts of both kinds, in float32. Where ``other_tokens`` are given, positions of these tokens, such as those
    that stand for an image, take no part in this: an adapter of their own, without a router, adds to them. What is learned
    from one modality then moves nothing of the other's: its gradient is exactly zero there.

    To keep forgetting apart, let the forget gradient into its experts alone:
    ``Unlearn(..., transforms=[OnlyIn(["*_forget"])])``. To protect what was retained before, train with
    ``TrainOnly(["*_forget", "lora_router"])``.

    A router looks at each input, so that what is added is no matrix: merging is refused by name. Switched off, the network
    is the original to the bit, which :class:`AdapterDisabled` uses. If there are ``other_tokens``, the network has to be
    called with tokens, and not with their embeddings.

    Args:
        r: Rank of each expert.
        alpha: Numerator of the scale.
        forget: Number of experts to forget in.
        retain: Number of experts to retain in.
        other_tokens: Ids of the tokens of another modality; ``None`` for a single one.
        layers: ``fnmatch`` patterns of names of linear layers, as in :class:`TrainOnly`, such as
            ``["up_proj", "down_proj"]``. Defaults to all but the output head.
        seed: Of the start; random states stay as they were.

    Raises:
        ValueError: When it wraps, if a pattern fits no linear layer, there is another adapter, or a network with
            ``other_tokens`` has no input embedding.

    Example:
        >>> network = Experts(r=2, forget=1, retain=2).wrap(nn.Sequential(nn.Linear(4, 3)))
        >>> network[0].lora_A_retain.shape, network[0].lora_router.shape
        (torch.Size([2, 2, 4]), torch.Size([3, 4]))
        >>> network[0].router(torch.ones(1, 4)).shape
        torch.Size([1, 3])

    References:
        After `MoDE <https://arxiv.org/abs/2512.03125>`_, 2025, by its code, which has four experts for text and one adapter
        for images. Experts by what is forgotten and what is retained are ours.
    """

    def __init__(
        self,
        r: int = 8,
        alpha: float = 16.0,
        forget: int = 1,
        retain: int = 3,
        other_tokens: Sequence[int] | None = None,
        layers: str | list[str] | None = None,
        seed: int = 0,
    ) -> None:
        for name, number in (("r", r), ("forget", forget), ("retain", retain)):
            check_whole(name, number)
        check_positive("alpha", alpha)
        self.r, self.alpha, self.forget, self.retain = r, alpha, forget, retain
        self.other_tokens, self.layers, self.seed = other_tokens, layers, seed

    @override
    def wrap(self, network: nn.Module) -> nn.Module:
        split = None if self.other_tokens is None else TokenSplit(self.other_tokens)
        embedding = input_embedding(network)
        if split is not None and embedding is None:
            raise ValueError(
                f"`other_tokens` should be for a network with an input embedding. Found `{type(network).__name__}`, which "
                "has none. Leave it out."
            )
        put_around(network, self.layers, lambda layer, generator: self._around(layer, generator, split), self.seed)
        if split is not None and embedding is not None:
            # Past the root, whose call some readouts bypass. A bound method, which a copy of the network copies along.
            embedding.register_forward_pre_hook(split.read)
        return network

    def _around(self, layer: nn.Module, generator: torch.Generator, split: TokenSplit | None) -> ExpertLayer:
        numbers = {"forget": self.forget, "retain": self.retain}
        return ExpertLayer(layer, self.r, self.alpha / self.r, numbers, generator, split)


class TokenSplit:
    """Which positions of the batch that is being computed belong to the other modality.

    Args:
        tokens: Ids of its tokens.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.other: Tensor | None = None

    def read(self, embedding: nn.Module, args: tuple[Any, ...]) -> None:
        """Look at the tokens that are embedded."""
        # Kept until the next ones: with activation checkpointing, layers compute again in the backward pass.
        self.other = torch.isin(args[0], torch.tensor(self.tokens, device=args[0].device))

    def of(self, inputs: Tensor) -> Tensor:
        """Which positions of ``inputs [..., in]`` are the other's, ``[..., 1]``."""
        if self.other is None or self.other.shape != inputs.shape[:-1]:
            found = "no tokens" if self.other is None else f"tokens of shape {tuple(self.other.shape)}"
            raise ValueError(
                f"A layer of `Experts` should get a row for each token. Found {found}, and inputs of shape "
                f"{tuple(inputs.shape)}. Leave layers out that see other rows, by `layers`, and call the network with "
                "tokens."
            )
        return self.other[..., None]


class ExpertLayer(AddedLayer):
    """A linear layer with experts.

    Args:
        base_layer: The layer inside.
        r: Rank of each expert.
        scale: Of their sum.
        numbers: How many experts there are of each kind.
        generator: For the start.
        split: Tells the tokens of another modality; ``None`` if there is one alone.
    """

    why_not_merged: ClassVar[str] = "its router gives each input other weights"

    lora_A_forget: nn.Parameter
    lora_B_forget: nn.Parameter
    lora_A_retain: nn.Parameter
    lora_B_retain: nn.Parameter

    def __init__(
        self,
        base_layer: nn.Module,
        r: int,
        scale: float,
        numbers: dict[str, int],
        generator: torch.Generator,
        split: TokenSplit | None,
    ) -> None:
        super().__init__(base_layer)
        self.scale, self.split = scale, split
        inputs, outputs = sizes(base_layer)
        device = device_of(base_layer)
        for kind, number in numbers.items():
            first = drawn(number, r, inputs, inputs=inputs, generator=generator, device=device)
            self.register_parameter(f"lora_A_{kind}", first)
            self.register_parameter(f"lora_B_{kind}", zeros(number, outputs, r, device=device))
        self.lora_router = drawn(sum(numbers.values()), inputs, inputs=inputs, generator=generator, device=device)
        if split is not None:
            self.lora_A_other = drawn(r, inputs, inputs=inputs, generator=generator, device=device)
            self.lora_B_other = zeros(outputs, r, device=device)

    def router(self, inputs: Tensor) -> Tensor:
        """The share of each expert, ``[..., E]``, those to forget in first."""
        with torch.autocast(inputs.device.type, enabled=False):
            return torch.softmax(inputs.float() @ self.lora_router.float().T, dim=-1)

    @override
    def added(self, inputs: Tensor) -> Tensor:
        first = torch.cat([self.lora_A_forget, self.lora_A_retain])
        second = torch.cat([self.lora_B_forget, self.lora_B_retain])
        narrow = torch.einsum("eri,...i->...er", first, inputs) * self.router(inputs)[..., None]
        routed = torch.einsum("eor,...er->...o", second, narrow.to(second.dtype))
        if self.split is None:
            return self.scale * routed
        own = inputs @ self.lora_A_other.T @ self.lora_B_other.T
        return self.scale * torch.where(self.split.of(inputs), own, routed)
