from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers import blocks, plain_name
from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._causal_lm import CausalLMReadout, _labels
from lightning_unlearn.readouts._layer_outputs import layer_outputs
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout
from lightning_unlearn.readouts._padding import mask_of, padded_behind


class HiddenStates(Prediction):
    """A :class:`Prediction` without logits: it has ``features`` only, ``[N, D]`` of one layer, ``[N, L, D]`` of several."""

    @override
    def token_nll(self) -> Tensor:
        raise ValueError(
            "Likelihoods should be taken of a readout with logits. Found the hidden states of `HiddenStateReadout` or "
            "`LayersReadout`: use them with `RMU` or `ActivationMatch`, and measure with `PackedCausalLMReadout()`."
        )


class StatesReadout(Readout):
    """Reads hidden states at the labelled tokens; subclasses say of which layers, and how they are put together."""

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The first PEFT or Hugging Face model inside ``module``. Raises if it has no such layer."""
        network = CausalLMReadout().find_network(module)
        self.find_layers(network)
        return network

    @override
    def __call__(self, network: nn.Module, batch: Any) -> HiddenStates:
        batch = padded_behind(batch, _labels(batch))
        labels = _labels(batch)
        mask = mask_of(batch, labels)
        chosen = labels != IGNORED if mask is None else (labels != IGNORED) & mask
        layers = self.find_layers(network)
        # No shift here: label and hidden state are of the same position. Logits over no entries are a view of the features.
        features = self._joined([states[chosen] for states in layer_outputs(network, layers, batch, labels.shape)])
        logits = features.flatten(1)[:, :0]
        return HiddenStates(logits, labels[chosen].long(), chosen.nonzero()[:, 0], len(labels), features)

    @override
    def for_measuring(self) -> Readout:
        """A readout with logits."""
        return PackedCausalLMReadout()

    @override
    def keys(self, batch: Any) -> list[str]:
        """As of every causal language model."""
        return CausalLMReadout().keys(batch)

    @abstractmethod
    def find_layers(self, network: nn.Module) -> dict[str, nn.Module]:
        """The layers that are read, by their full names, in the order in which they are put together."""

    @abstractmethod
    def _joined(self, states: list[Tensor]) -> Tensor:
        """The features, of the states ``[N, D]`` of each layer."""


class HiddenStateReadout(StatesReadout):
    r"""Run a causal language model up to one layer, and read its hidden states at the labelled tokens themselves.

    A label is read at the position of its own token, not at the position before, which predicts it: objectives steer
    how the answer is represented. ``features`` are ``[N, D]``; there are no logits. :class:`LayersReadout` reads
    several.

    Later layers are not run. A forward hook on the layer raises a private exception, which ends the forward pass and is
    caught here; the hook is removed whatever happens. Where parameters are sharded the network runs to its end, since
    FSDP cleans up after whole forward passes only. Under plain DDP, later layers are unused parameters: freeze them, or
    use ``strategy="ddp_find_unused_parameters_true"``.

    Args:
        layer: The layer's name in the network, or the end of its name, as a regular expression that fits one module:
            ``"layers.7"``, ``r"h\.7"``.

    Raises:
        ValueError: If the name fits no module or several, or the module's output is not one hidden state per position.

    Example:
        >>> import torch
        >>> from lightning_unlearn import TinyCausalLM
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> states = HiddenStateReadout("layers.1")(TinyCausalLM(hidden_size=32), batch)
        >>> states.features.shape, states.logits.shape, states.labels.tolist()
        (torch.Size([2, 32]), torch.Size([2, 0]), [6, 7])
    """

    def __init__(self, layer: str) -> None:
        self._pattern = compiled("layer", layer)
        self.layer = layer

    @override
    def find_layers(self, network: nn.Module) -> dict[str, nn.Module]:
        fitting = fitting_modules(network, self._pattern)
        if len(fitting) == 1:
            return fitting
        raise ValueError(
            f"`layer` should fit the name of one module. Found {len(fitting)} with `layer = {self.layer!r}`. "
            f"{'They are' if fitting else 'There are'} {named(fitting or blocks(network))}."
        )

    @override
    def _joined(self, states: list[Tensor]) -> Tensor:
        return states[0]


def compiled(argument: str, layer: str) -> re.Pattern[str]:
    """The regular expression for names that end with ``layer``, which was given as ``argument``."""
    try:
        return re.compile(rf"(.*\.)?(?:{layer})")
    except re.error as error:
        raise ValueError(
            f"`{argument}` should be a regular expression. Found `{argument} = {layer!r}`: {error}."
        ) from error


def fitting_modules(network: nn.Module, pattern: re.Pattern[str]) -> dict[str, nn.Module]:
    """The modules whose names fit, in the order of the network."""
    modules: dict[str, nn.Module] = {plain_name(name): module for name, module in network.named_modules()}
    return {name: module for name, module in modules.items() if pattern.fullmatch(name)}


def named(modules: dict[str, nn.Module]) -> str:
    """The first names of modules, for an error."""
    return ", ".join(f"`{plain_name(name)}`" for name in list(modules)[:20])
