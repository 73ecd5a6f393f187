from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers import blocks
from lightning_unlearn.readouts._hidden_states import StatesReadout, compiled, fitting_modules, named


class LayersReadout(StatesReadout):
    r"""Run a causal language model up to the last of several layers, and read all of them at the labelled tokens.

    As :class:`HiddenStateReadout`, with ``features`` ``[N, L, D]``: one hidden state of each of ``L`` layers, in the
    order of ``layers``. Blocks give residual streams; their MLPs and attentions can be named as well, and give what
    they add to it: ``r"layers\.[2-5]\.mlp"``.

    One forward pass serves all layers, and ends at the last one. Where parameters are sharded it runs to its end. Under
    plain DDP, later layers are unused parameters, as with :class:`HiddenStateReadout`.

    Args:
        layers: Regular expressions, each for the names of one module or several, or for the ends of their names. A
        module
            that fits twice is read once.

    Raises:
        ValueError: If an expression fits no module, a module's output is not one hidden state per position, or the
        layers
            have different widths.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> LayersReadout([r"layers\.[01]\.mlp"])(TinyCausalLM(hidden_size=32), batch).features.shape
        torch.Size([2, 2, 32])
    """

    def __init__(self, layers: Sequence[str]) -> None:
        if isinstance(layers, str) or not layers:
            raise ValueError(
                f'`layers` should be a list of names, such as `["layers.2", "layers.3"]`. Found `layers = {layers!r}`.'
            )
        self._patterns = {layer: compiled("layers", layer) for layer in layers}
        self.layers = list(layers)

    @override
    def find_layers(self, network: nn.Module) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for layer, pattern in self._patterns.items():
            fitting = fitting_modules(network, pattern)
            if not fitting:
                raise ValueError(
                    f"Each of `layers` should fit the name of a module. Found none for {layer!r}. There are "
                    f"{named(blocks(network))}."
                )
            found.update({name: module for name, module in fitting.items() if name not in found})
        return found

    @override
    def _joined(self, states: list[Tensor]) -> Tensor:
        if len(widths := {s.shape[1] for s in states}) > 1:
            raise ValueError(
                f"`layers` should be of one width. Found hidden states of {' and '.join(map(str, sorted(widths)))} "
                f"dimensions, of `layers = {self.layers!r}`. Name blocks, or their MLPs."
            )
        return torch.stack(states, dim=1)
