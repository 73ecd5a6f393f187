from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers import is_linear, plain_name
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts._classification import ClassificationReadout


class EmbeddingReadout(ClassificationReadout):
    """Run a classifier, and read its embeddings as well: what goes into one of its layers, by default the last linear one.

    Everything else is as of :class:`ClassificationReadout`; ``features`` are ``[N, D]``, of supervised examples.

    Args:
        layer: Name of the layer that the embeddings go into.
        inputs: As there.
        labels: As there.

    Raises:
        ValueError: If there is no such layer, or it is not called once, with a row for each example.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> EmbeddingReadout()(network, (torch.zeros(5, 3), torch.tensor([0, 1, -100, 1, 0]))).features.shape
        torch.Size([4, 4])
    """

    def __init__(
        self, layer: str | None = None, inputs: int | str | None = None, labels: int | str | None = None
    ) -> None:
        super().__init__(inputs, labels)
        self.layer = layer

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        name, layer = self._find(network)
        read: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read.append(args[0] if args else next(iter(kwargs.values())))

        handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            prediction = super().__call__(network, batch)
        finally:
            handle.remove()
        if len(read) != 1 or len(read[0]) != prediction.batch_size:
            shapes = [list(states.shape) for states in read]
            raise ValueError(
                f"The layer `{name}` should be called once, with a row for each of {prediction.batch_size} examples. Found "
                f"inputs of shapes {shapes}. Name another `layer`."
            )
        return replace(prediction, features=read[0].flatten(1)[prediction.example])

    def _find(self, network: nn.Module) -> tuple[str, nn.Module]:
        named = {plain_name(name): module for name, module in network.named_modules() if "lora_" not in name}
        linear = [name for name, module in named.items() if is_linear(module)]
        name = self.layer if self.layer is not None else linear[-1] if linear else ""
        if name not in named or name == "":
            raise ValueError(
                f"`layer` should name a layer of the network. Found none for {self.layer!r}. It has "
                f"{', '.join(f'`{n}`' for n in linear[-6:]) or 'no linear layer'}."
            )
        return name, named[name]
