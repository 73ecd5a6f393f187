from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.edits._base import Edit
from lightning_unlearn.edits._output_neurons import Neurons, all_linear, neurons_of, plain
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_between, check_not_negative, check_whole
from lightning_unlearn.models.layers import base_model, blocks, plain_name
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import hash_of


class ResetNeurons(Edit):
    r"""Give some neurons of the last layers their first weights again: the erasing half of erase and repair.

    Of each layer, ``round(fraction * out)`` outputs are drawn. Their rows of the weight are drawn from
    :math:`\mathcal{N}(0, \sigma^2)`, their biases become 0. All other rows stay, bit for bit. What an optimizer remembers of
    the rows is set to zero, too, so that old momentum does not bring them back: :class:`ApplyEdit` sees to it.

    Repair by training on: with what is sensitive not supervised (label ``-100``), or by a fit on retain data. Compare with
    the repair alone.

    A head that shares its weight with the input embedding is refused: resetting it would take the meaning of half of the
    tokens at the input, too.

    Args:
        fraction: Of the outputs of each layer.
        layers: ``fnmatch`` patterns of names of linear layers, such as ``"lm_head"`` or ``"model.layers.29.mlp"``, as in
            :class:`TrainOnly`. Defaults to the linear layers of the last block; where nothing repeats, to the last one.
        std: :math:`\sigma`. Defaults to the ``initializer_range`` of the network's configuration; without one, to that of
            torch's linear layers, :math:`1 / \sqrt{3 \, \mathrm{in}}`.
        seed: Of the draw, and of the weights: the same on all processes, devices and shards.

    Raises:
        ValueError: When called, if a pattern fits no linear layer, or a layer is tied to the input embedding.

    Example:
        >>> layer = nn.Linear(3, 64)
        >>> before = layer.weight.detach().clone()
        >>> _ = ResetNeurons(fraction=0.5)(layer)
        >>> int((layer.weight != before).any(1).sum()), int((layer.bias == 0).sum())
        (32, 32)

    References:
        `Leverage Unlearning to Sanitize LLMs <https://arxiv.org/abs/2510.21322>`_ (SANI), 2025, rebuilt from reviews of it:
        which layers, and how they are drawn, is ours.
    """

    resets_optimizer: ClassVar[bool] = True

    def __init__(
        self,
        fraction: float = 0.5,
        layers: str | list[str] | None = None,
        std: float | None = None,
        seed: int = 0,
    ) -> None:
        check_between("fraction", fraction, 0, 1)
        if std is not None:
            check_not_negative("std", std)
        check_whole("seed", seed, least=0)
        self.fraction, self.layers, self.std, self.seed = fraction, layers, std, seed

    @override
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        chosen = self._chosen(network)
        for neurons in chosen:
            _refuse_shared(network, neurons)
        for place, neurons in enumerate(chosen):
            number = round(self.fraction * neurons.number)
            if number:
                yield from self._reset(network, neurons, number, place)

    def _chosen(self, network: nn.Module) -> list[Neurons]:
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        if patterns is None:
            last = list(blocks(network))[-1:]
            found = [n for n in neurons_of(network, None) if not last or n.name.startswith(f"{last[0]}.")][:]
            # A block may itself be one linear layer.
            found = found or [n for n in neurons_of(network, None) if n.name == "".join(last)]
            found = found if last else found[-1:]
        else:
            found = neurons_of(network, patterns)
        if not found:
            raise ValueError(
                f"`layers` should fit names of linear layers. Found none for {patterns or 'the last block'}. There are "
                f"{all_linear(network) or 'none'}."
            )
        return plain(self, found)

    def _reset(self, network: nn.Module, neurons: Neurons, number: int, place: int) -> Iterator[tuple[str, Tensor]]:
        # On the CPU and whole: other devices, and shards, would draw other numbers from the same seed.
        generator = torch.Generator().manual_seed(hash_of(self.seed, place))
        index = torch.randperm(neurons.number, generator=generator)[:number]
        rows, shifts = neurons.rows(), neurons.shifts()
        fresh = torch.randn(number, rows.shape[1], generator=generator, dtype=torch.float32) * self._std(
            network, rows.shape[1]
        )
        rows[index.to(rows.device)] = fresh.to(rows)
        if shifts is not None:
            shifts[index.to(shifts.device)] = 0
        yield from neurons.values(rows, shifts)

    def _std(self, network: nn.Module, inputs: int) -> float:
        if self.std is not None:
            return self.std
        configured = getattr(getattr(base_model(network), "config", None), "initializer_range", None)
        return (3 * inputs) ** -0.5 if configured is None else float(configured)


def _refuse_shared(network: nn.Module, neurons: Neurons) -> None:
    users = [
        name
        for name, module in network.named_modules()
        if module is not neurons.layer and any(p is neurons.layer.weight for p in module._parameters.values())
    ]
    if users:
        raise ValueError(
            f"`ResetNeurons` should reset weights of one layer. Found that `{plain_name(neurons.name)}` shares its weight "
            f"with `{plain_name(users[0])}`, which would be reset as well. Untie them first "
            "(`network.config.tie_word_embeddings = False`, and a weight of its own), or name other `layers`."
        )
