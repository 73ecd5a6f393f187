from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.edits._base import Edit
from lightning_unlearn.edits._needs import needed
from lightning_unlearn.edits._output_neurons import Neurons, all_linear, neurons_of, plain
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.functional.subspace import energy_rank
from lightning_unlearn.models.layers import eager_if_compiled
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_without_grad

_CUTOFF = 1e-5  # of the length of the mean size of outputs; these are float32 at best


class ProjectNeurons(Edit):
    r"""Take out of some neurons the directions by which forget data stand out from what must stay: CHIP's edit.

    In each layer, for the outputs :math:`a` of linear layers,

    .. math:: S = \text{the share of outputs with the largest } \overline{|a|}_f - \overline{|a|}_r, \qquad
        d_g = \frac{\mu_g[S] - \mu_r[S]}{\|\mu_g[S] - \mu_r[S]\|}, \qquad
        W[S] \leftarrow (I - Q Q^\top) \, W[S]

    with the mean output :math:`\mu_g` of each forget batch, that of all retain data, and in :math:`Q` the left singular
    vectors of all :math:`d_g` that hold ``energy`` of their squares. Outputs along :math:`Q` are then zero for every input;
    biases are projected, too, which is ours. All other rows stay, bit for bit. Let each forget batch be of one thing that
    must go, as batches of one entity are.

    Without training: one pass over both. Means are taken over all positions that are no padding.

    Args:
        layers: ``fnmatch`` patterns of names of linear layers, as in :class:`TrainOnly`. Defaults to everything in a module
            called ``mlp``, or, where there is none, to all linear layers but the last.
        share: Which share of outputs is meant.
        energy: Which share of the squares of the directions is taken out.

    Raises:
        ValueError: When called, without forget data, retain data or a readout; if a pattern fits no linear layer.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(4, 4)
        >>> here, there = ((torch.eye(4)[i : i + 1], torch.tensor([i])) for i in range(2))
        >>> edit = ProjectNeurons("*", share=0.5)
        >>> edit(layer, forget=[here], retain=[there], readout=ClassificationReadout()).elements  # two rows and biases
        10

    References:
        The edit of `MedForget <https://github.com/fengli-wu/MedForget>`_, 2025, by its code, without its weighing of images
        against text.
    """

    needs_forget: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True

    def __init__(self, layers: str | list[str] | None = None, share: float = 0.1, energy: float = 0.95) -> None:
        check_between("share", share, 0, 1)
        check_between("energy", energy, 0, 1)
        self.layers, self.share, self.energy = layers, share, energy

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
        readout = needed(self, readout, forget=forget, retain=retain)
        chosen = self._chosen(network)
        here = [_means(network, chosen, [batch], readout, engine) for batch in forget]
        there = _means(network, chosen, retain, readout, engine)
        for neurons in chosen:
            seen = [means[neurons.name] for means in here if neurons.name in means]
            if seen and neurons.name in there:
                yield from self._projected(neurons, seen, there[neurons.name])

    def _chosen(self, network: nn.Module) -> list[Neurons]:
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        found = neurons_of(network, ["mlp"] if patterns is None else patterns)
        if patterns is None and not found:
            found = neurons_of(network, None)[:-1]
        if not found:
            raise ValueError(
                f"`layers` should fit names of linear layers. Found none for {patterns or 'all but the last'}. There are "
                f"{all_linear(network) or 'none'}."
            )
        return plain(self, found)

    def _projected(self, neurons: Neurons, here: Sequence[Tensor], there: Tensor) -> Iterator[tuple[str, Tensor]]:
        size = torch.stack([means[1] for means in here]).mean(0) - there[1]
        number = round(self.share * neurons.number)
        index = size.topk(number).indices
        apart = torch.stack([means[0][index] - there[0][index] for means in here], dim=1)
        lengths = apart.norm(dim=0)
        # Shorter ones are rounding, and could point anywhere: so it is after a projection.
        there_are = lengths > _CUTOFF * there[1][index].norm()
        if not there_are.any():
            return
        left, singular, _ = torch.linalg.svd(apart[:, there_are] / lengths[there_are], full_matrices=False)
        taken = left[:, : energy_rank(singular**2, (singular**2).sum(), self.energy)]
        rows, shifts = neurons.rows(), neurons.shifts()
        rows[index] = _without(taken, rows[index])
        if shifts is not None:
            shifts[index] = _without(taken, shifts[index])
        yield from neurons.values(rows, shifts)


def _without(directions: Tensor, rows: Tensor) -> Tensor:
    exact = rows.double()
    return (exact - directions @ (directions.T @ exact)).to(rows.dtype)


def _means(
    network: nn.Module, chosen: Sequence[Neurons], batches: Sequence[Any], readout: Readout, engine: GradientEngine
) -> dict[str, Tensor]:
    """Mean output and mean size of the output of each layer that was called, ``[2, out]`` float64. Collective."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        with (
            eval_without_grad(network),
            eager_if_compiled(network),
            _adding(chosen, readout.present(batch), sums, counts),
        ):
            engine.forward(lambda b: readout(network, b), batch)
    return {name: engine.average(total / max(counts[name], 1)) for name, total in sums.items()}


@contextmanager
def _adding(
    chosen: Sequence[Neurons], present: Tensor | None, sums: dict[str, Tensor], counts: dict[str, int]
) -> Iterator[None]:
    def hooked(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, output: Tensor) -> None:
            rows = output.detach().flatten(0, -2).double()
            # Rows that are no positions of the batch, as packed ones, hold no padding.
            if present is not None and present.numel() == len(rows):
                rows = rows[present.flatten()]
            total = torch.stack([rows.sum(0), rows.abs().sum(0)])
            sums[name] = sums[name] + total if name in sums else total
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    handles = [neurons.layer.register_forward_hook(hooked(neurons.name)) for neurons in chosen]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
