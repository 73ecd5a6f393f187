from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers import is_linear, name_fits, output_heads, plain_name


class AddedLayer(nn.Module, ABC):
    r"""A linear layer, and what an adapter adds to its outputs: :math:`W x + b + \mathrm{added}(x)`.

    Names of its parameters begin with ``lora_``, as those of PEFT, and those that are zero at first with ``lora_B``: so that
    an adapter is known by its names.

    Args:
        base_layer: The linear layer inside, frozen.

    Attributes:
        is_off: Whether nothing is added. Then the outputs are the layer's own, to the bit.
        why_not_merged: Why what is added cannot be a part of the weights.
    """

    why_not_merged: ClassVar[str]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.is_off = False

    @property
    def weight(self) -> Tensor:
        """That of the layer inside, for code that reads it past the layer."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """Likewise."""
        return self.base_layer.bias  # type: ignore[return-value]

    @abstractmethod
    def added(self, inputs: Tensor) -> Tensor:
        """What is added, from the inputs ``[..., in]`` in the precision of the adapter: ``[..., out]``."""

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base_layer(inputs)
        if self.is_off:
            return outputs
        factors = next(p for name, p in self.named_parameters() if name.startswith("lora_"))
        return outputs + self.added(inputs.to(factors.dtype)).to(outputs.dtype)

    def merge(self) -> None:
        """Refused by name.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` should stay beside its layer: {self.why_not_merged}. Found that it is to be merged. "
            "Save the network with its adapter, and attack it as it is."
        )


def added_layers(network: nn.Module) -> Iterator[tuple[str, AddedLayer]]:
    """The layers of ``network`` to which an adapter of ours adds something, with their names."""
    return ((name, m) for name, m in network.named_modules() if isinstance(m, AddedLayer))


def refuse_merging(network: nn.Module) -> None:
    """Refuse a network with an adapter of ours where weights are to be merged, or written as a plain model.

    Raises:
        NotImplementedError: If there is one.
    """
    for _, layer in added_layers(network):
        layer.merge()


@contextmanager
def added_switched_off(network: nn.Module) -> Iterator[None]:
    """Add nothing until the block is left: the network is then what it was before it got the adapter, to the bit.

    Example:
        >>> from lightning_unlearn.models.adapters import Experts
        >>> network = Experts(r=1).wrap(nn.Sequential(nn.Linear(1, 1)))
        >>> _ = network[0].lora_B_forget.data.fill_(5.0)
        >>> x = torch.ones(1, 1)
        >>> with added_switched_off(network):
        ...     torch.equal(network(x), network[0].base_layer(x))
        True
    """
    layers = [layer for _, layer in added_layers(network)]
    before = [layer.is_off for layer in layers]
    try:
        for layer in layers:
            layer.is_off = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.is_off = was


def put_around(
    network: nn.Module,
    patterns: str | Sequence[str] | None,
    made: Callable[[nn.Module, torch.Generator], AddedLayer],
    seed: int,
) -> list[AddedLayer]:
    """Freeze ``network``, and put a layer of an adapter in the place of each linear layer of some names.

    Args:
        network: Changed in place.
        patterns: ``fnmatch`` patterns of names of linear layers; without any, all but the output head.
        made: From a linear layer and a generator to what takes its place.
        seed: Of the generator, on the CPU: the same start on all devices and processes.

    Raises:
        ValueError: If a pattern fits no linear layer, or there is an adapter already.
    """
    if any("lora_" in name for name, _ in network.named_parameters()):
        raise ValueError(
            "An adapter should be put around a network without one. Found parameters of another. Fold or merge it first."
        )
    patterns = [patterns] if isinstance(patterns, str) else patterns
    heads = set(output_heads(network))
    chosen = {
        name: module
        for name, module in network.named_modules()
        if is_linear(module) and (module not in heads if patterns is None else name_fits(plain_name(name), patterns))
    }
    for pattern in [patterns] if patterns is None else patterns:
        if not any(pattern is None or name_fits(plain_name(name), [pattern]) for name in chosen):
            every = [plain_name(name) for name, module in network.named_modules() if is_linear(module)]
            raise ValueError(
                f"`layers` should fit names of linear layers. Found none for {pattern or 'all but the output head'!r}. "
                f"There are {', '.join(f'`{name}`' for name in every[:6]) or 'none'}."
            )
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for name, module in chosen.items():
        parent, _, child = name.rpartition(".")
        layer = made(module, generator)
        layer.train(module.training)
        setattr(network.get_submodule(parent), child, layer)
        layers.append(layer)
    return layers


def device_of(layer: Any) -> torch.device:
    """Where a linear layer computes."""
    device: torch.device = layer.weight.device
    return device


def drawn(*shape: int, inputs: int, generator: torch.Generator, device: torch.device) -> nn.Parameter:
    """A factor that starts as LoRA's first one does: uniform, within one over the root of the number of inputs."""
    uniform = torch.rand(*shape, generator=generator, dtype=torch.float32) * 2 - 1
    return nn.Parameter((uniform / inputs**0.5).to(device))


def zeros(*shape: int, device: torch.device) -> nn.Parameter:
    """A factor that adds nothing at first."""
    return nn.Parameter(torch.zeros(*shape, device=device, dtype=torch.float32))
