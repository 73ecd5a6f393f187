from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from lightning_unlearn.data._encoded_data import EncodedData
from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.vision._image_data import pair
from lightning_unlearn.functional.neighbour_graph import mixed_prototypes, neighbour_graph
from lightning_unlearn.functional.settings import check_between, check_kind, check_whole
from lightning_unlearn.runtime import eval_without_grad, written_whole


@dataclass(frozen=True)
class ClassMeans:
    """What is kept of retain data that must be given up: the mean of each class before the head, and who is beside whom.

    Args:
        means: ``[C, D]``.
        graph: Strengths of edges between classes, ``[C, C]``.
        labels: The classes that have a mean.

    Example:
        >>> seen = ClassMeans.of(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1]), neighbours=1)
        >>> seen.means, seen.labels
        (tensor([[1.],
                [9.]]), tensor([0, 1]))
    """

    means: Tensor
    graph: Tensor
    labels: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, neighbours: int = 2) -> ClassMeans:
        """From features ``[N, D]`` and their labels ``[N]``."""
        means = torch.zeros(int(labels.max()) + 1, features.shape[1])
        known = labels.unique()
        for label in known.tolist():
            means[label] = features[labels == label].mean(0)
        graph = torch.zeros(len(means), len(means))
        graph[known[:, None], known] = neighbour_graph(
            features, means[known], neighbours=min(neighbours, len(known) - 1)
        )
        return cls(means, graph, known)

    @classmethod
    def seen(cls, network: nn.Module, batches: Iterable[Any], head: str, neighbours: int = 2) -> ClassMeans:
        """From what the layer ``head`` of a network reads when it is shown pairs of images and labels."""
        read: list[Tensor] = []
        labels: list[Tensor] = []
        handle = network.get_submodule(head).register_forward_pre_hook(lambda _, args: read.append(args[0].cpu()))
        try:
            with eval_without_grad(network):
                for images, some in batches:
                    network(images)
                    labels.append(some.cpu())
        finally:
            handle.remove()
        return cls.of(torch.cat(read).float(), torch.cat(labels), neighbours)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        with written_whole(Path(path)) as new:
            save_file({name: value.contiguous() for name, value in vars(self).items()}, str(new))

    @classmethod
    def load(cls, path: str | Path) -> ClassMeans:
        """Read one."""
        return cls(**load_file(str(path)))

    def beside(self, label: int) -> list[int]:
        """The classes beside another one: those that are hurt first when it is forgotten."""
        return [int(other) for other in self.graph[label].nonzero()[:, 0]]


class MixedPrototypes(EncodedData):
    """A stand-in for retain data that are gone: points between the means of neighbouring classes, as pairs with a label.

    Batches are features ``[B, D]`` and labels ``[B]``, for :class:`~lightning_unlearn.readouts.HeadReadout`, which runs the
    head alone. So they say nothing about the layers before it: train the head alone (``TrainOnly("head")``), or guard the
    others. The points are drawn once.

    A :class:`RecoveryCheck` shows whole networks images, and no points: tell it what is left to measure what must stay on,
    such as held-out images, by ``probes={"retain": images}``.

    Args:
        prototypes: What was kept, or the file that it was saved in.
        count: How many points.
        low: The share of a label's own prototype is drawn between this and 1.
        without: Classes that must go, by number: they are neither a label nor a neighbour.
        seed: Of the draws.
        loader: How they are cut into batches.

    Example:
        >>> kept = ClassMeans.of(torch.eye(3), torch.tensor([0, 1, 2]))
        >>> data = MixedPrototypes(kept, count=6, low=1.0, without=[1])
        >>> features, labels = next(iter(data.val_dataloader()))
        >>> labels, bool((features == torch.eye(3)[labels]).all())
        (tensor([0, 2, 0, 2, 0, 2]), True)

    References:
        NA-PA of Malepathirana et al., NAPA-VQ, ICCV 2023, and its code.
    """

    def __init__(
        self,
        prototypes: ClassMeans | str,
        count: int = 512,
        low: float = 0.5,
        without: list[int] | None = None,
        seed: int = 0,
        loader: LoaderSettings = LoaderSettings(batch_size=64),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(loader)
        check_whole("count", count)
        check_between("low", low, 0, 1)
        if not isinstance(prototypes, str):
            check_kind("prototypes", prototypes, ClassMeans, example="ClassMeans.seen(network, batches, head='linear')")
        self.prototypes, self.count, self.low, self.without, self.seed = prototypes, count, low, without, seed

    @cached_property
    @override
    def dataset(self) -> TensorDataset:
        """The points and their labels, in turn."""
        kept = ClassMeans.load(self.prototypes) if isinstance(self.prototypes, str) else self.prototypes
        gone = torch.tensor(self.without or [], dtype=torch.int64)
        left = kept.labels[~torch.isin(kept.labels, gone)]
        if not len(left):
            raise ValueError(
                f"`without` should leave at least one class. Found {self.without} of {kept.labels.tolist()}."
            )
        labels = left[torch.arange(self.count) % len(left)]
        graph = kept.graph.index_fill(0, gone, 0).index_fill(1, gone, 0)
        draws = torch.Generator().manual_seed(self.seed)
        return TensorDataset(mixed_prototypes(kept.means, graph, labels, low=self.low, generator=draws), labels)

    @override
    def collate(self) -> Callable[[Any], Any]:
        return pair
