from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._deployed import Deployed, deployed
from lightning_unlearn.attacks._places import places
from lightning_unlearn.attacks._rounding import Rounding, rounded_weight, weights_kept
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.models.layers import Matrix, only_adds
from lightning_unlearn.runtime import drop_copies


class OnMatrices(Attack):
    """An attack on the weights that a deployment changes one matrix at a time.

    Args:
        head: Whether the output head is changed, too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged into the base first.

    Attributes:
        verb: What is done to a weight, for messages.
        each_layer: Whether two layers that share a weight are changed one by one.
    """

    verb: ClassVar[str]
    each_layer: ClassVar[bool] = False

    def __init__(self, *, head: bool, skip: Sequence[str], merge_adapters: bool) -> None:
        if isinstance(skip, str):
            raise TypeError(f"`skip` should be a sequence of patterns. Found a string; write `skip = [{skip!r}]`.")
        self.head = head
        self.skip = tuple(skip)
        self.merge_adapters = merge_adapters

    @property
    @abstractmethod
    def point(self) -> float:
        """The strength of the attack."""

    @abstractmethod
    def changes(
        self, network: nn.Module, found: Sequence[Matrix], batches: Iterable[Any], loss: BatchLoss | None, engine: Any
    ) -> Iterator[AbstractContextManager[None]]:
        """What changes one matrix after the other of ``found``; each is entered before the next one is made."""

    def kept(self, found: Sequence[Matrix]) -> AbstractContextManager[None]:
        """What puts back, in the end, the weights that changes write to; by default they write to none."""
        return nullcontext()

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[float]]:
        # FSDP2 may still hold gathered weights, and would use them instead of the shards that are changed here.
        drop_copies(network)
        engine = GradientEngine(network) if engine is None else engine
        found = self.matrices(network)
        with ExitStack() as undo:
            undo.enter_context(self.kept(found))
            for change in self.changes(network, found, batches, loss, engine):
                undo.enter_context(change)
            # Undone in reverse order: first the gathered copies of changed weights go, then the shards are restored.
            undo.callback(drop_copies, network)
            yield iter((self.point,))

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the weights of matrices that is changed.

        Weights that quantised loaders leave in full do not count: embeddings, weights tied to them, adapters, and, without
        ``head``, the output head. Those in ``skip`` or in few bits already do.

        Example:
            >>> network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 1))
            >>> from lightning_unlearn import Quantize
            >>> Quantize().share_reached(network), Quantize(skip=["1"]).share_reached(network)
            (1.0, 0.8)
        """
        return self._deployed(network).share

    def adapters_of(self, matrix: Matrix) -> Sequence[Any]:
        """The adapters that are merged into it."""
        return matrix.adapters if self.merge_adapters else ()

    def _deployed(self, network: nn.Module) -> Deployed:
        return deployed(
            network, skip=self.skip, head=self.head, unfit=self.unfit_in(network), each_layer=self.each_layer
        )

    def unfit_in(self, network: nn.Module) -> Callable[[Matrix], str]:
        """Why a matrix that deployments change is not changed by this attack; empty, the default, if it is."""
        return lambda matrix: ""

    def matrices(self, network: nn.Module) -> list[Matrix]:
        """The weights that are changed, each once.

        Raises:
            ValueError: If there are none, or one cannot be changed as it is: flattened, sharded across what belongs
                together, or under an adapter that cannot be merged.
        """
        found = self.whole_matrices(network)
        for matrix in found:
            if not matrix.is_computed:  # else the layer itself sees to it that its forward pass computes a whole one
                self.check_placement(matrix)
        return found

    def whole_matrices(self, network: nn.Module) -> list[Matrix]:
        """As :meth:`matrices`, for who gathers each of them: however they are sharded."""
        found = self._deployed(network)
        if not found.matrices:
            others = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items()) or "none"
            raise ValueError(
                f"`network` should hold weights to {self.verb}: a linear layer, a convolution, a recurrent layer or "
                f"attention. Found none in `{type(network).__name__}` besides those left out ({others}). See `skip` and "
                "`head`."
            )
        if few_bits := found.left_out["low-bit already"]:
            rank_zero_warn(
                f"`{type(self).__name__}` leaves {few_bits} layers alone, for they are stored in few bits already; "
                "their adapters, if any, stay in full precision."
            )
        for matrix in found.matrices:
            if not matrix.is_computed:
                _check_shape(matrix)
            if self.merge_adapters:
                _check_mergeable(matrix)
        return found.matrices

    def check_placement(self, matrix: Matrix) -> None:
        """Refuse a weight whose shards cannot be changed one by one. Defaults to none."""


class InPlace(OnMatrices):
    """An attack that gives matrices other values.

    Args:
        head: As in :class:`OnMatrices`; so are ``skip`` and ``merge_adapters``.
        skip: Names of further layers to leave out.
        merge_adapters: Whether active adapters are merged into the base first.
        store: ``"cpu"`` or ``"device"``, where the original weights are kept.
    """

    def __init__(
        self, *, head: bool, skip: Sequence[str], merge_adapters: bool, store: Literal["device", "cpu"]
    ) -> None:
        if store not in ("device", "cpu"):
            raise ValueError(f"`store` should be 'device' or 'cpu'. Found `store = {store!r}`.")
        super().__init__(head=head, skip=skip, merge_adapters=merge_adapters)
        self.store = store

    @override
    def kept(self, found: Sequence[Matrix]) -> AbstractContextManager[None]:
        """One copy of what is changed."""
        return weights_kept(found, store=self.store)

    def changed(self, matrix: Matrix, change: Rounding) -> AbstractContextManager[None]:
        """Merge adapters into a matrix, and change it."""
        return rounded_weight(matrix, change, adapters=self.adapters_of(matrix))


class EachAlone(InPlace):
    """An attack that changes each matrix by its own values alone: what rounding and pruning share."""

    @abstractmethod
    def change_of(self, matrix: Matrix) -> Rounding:
        """From the values of a matrix, one row for each output, to what they become."""

    @override
    def changes(
        self, network: nn.Module, found: Sequence[Matrix], *given: Any
    ) -> Iterator[AbstractContextManager[None]]:
        return (self.changed(matrix, self.change_of(matrix)) for matrix in found)


def called_linear(network: nn.Module) -> Callable[[Matrix], str]:
    """For attacks on linear layers that are called with their inputs: why another matrix is left out."""
    called = {place.matrix.module for place in places(network) if place.has_hook}
    return lambda matrix: "" if matrix.module in called else "no linear layer that is called"


def refuse_cut_rows(matrix: Matrix) -> None:
    """Refuse shards that cut through the weights of one output.

    Raises:
        ValueError: If the weight is sharded along another axis than its outputs.
    """
    weight = matrix.tensor
    if not isinstance(weight, DTensor):
        return
    rows = matrix.layout.row_axes
    if not all(p.is_replicate() or any(p.is_shard(axis) for axis in rows) for p in weight.placements):
        channels = matrix.layout.output_axis
        raise ValueError(
            f"The weight of `{matrix.layer}` should be replicated, or sharded by its output channels (dimension "
            f"{channels}), so that all weights of an output belong to one process. Found {weight.placements}. Name it in "
            "`skip`, or attack a consolidated checkpoint after the fit."
        )


def _check_shape(matrix: Matrix) -> None:
    weight = matrix.tensor
    if not matrix.is_whole:
        found = f"shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else "no tensor"
        raise ValueError(
            f"The weight of `{matrix.layer}` should have {matrix.layout.axes} axes. Found {found}: FSDP1 and DeepSpeed "
            "ZeRO-3 flatten parameters. Use FSDP2 (`ModelParallelStrategy`), or attack a consolidated checkpoint after the "
            "fit."
        )


def _check_mergeable(matrix: Matrix) -> None:
    for adapter in matrix.adapters:
        # PEFT merges that of `nn.MultiheadAttention` anew in each forward pass, its output projection twice.
        if not only_adds(adapter) or isinstance(matrix.module, nn.MultiheadAttention):
            raise ValueError(
                f"The adapter of `{matrix.layer}` should only add to its weight, as plain LoRA does, to be merged before "
                f"rounding. Found `{type(adapter).__module__}.{type(adapter).__name__}` with more to it (DoRA, a bias, "
                "another method). Set `merge_adapters=False`, or attack a merged checkpoint after the fit."
            )
