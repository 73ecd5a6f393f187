from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._deployed import Deployed, deployed
from lightning_unlearn.attacks._rounding import Rounding, rounded_weight
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.models.layers import Matrix, only_adds
from lightning_unlearn.runtime import reshard


class OnMatrices(Attack):
    """An attack on the weights that a deployment changes one matrix at a time: what rounding and pruning share.

    Args:
        head: Whether the output head is changed, too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged into the base first.
        store: ``"cpu"`` or ``"device"``, where the original weights are kept.

    Attributes:
        verb: What is done to a weight, for messages.
    """

    verb: ClassVar[str]

    def __init__(
        self, *, head: bool, skip: Sequence[str], merge_adapters: bool, store: Literal["device", "cpu"]
    ) -> None:
        if store not in ("device", "cpu"):
            raise ValueError(f"`store` should be 'device' or 'cpu'. Found `store = {store!r}`.")
        if isinstance(skip, str):
            raise TypeError(f"`skip` should be a sequence of patterns. Found a string; write `skip = [{skip!r}]`.")
        self.head = head
        self.skip = tuple(skip)
        self.merge_adapters = merge_adapters
        self.store = store

    @property
    @abstractmethod
    def point(self) -> float:
        """The strength of the attack."""

    @abstractmethod
    def change_of(self, matrix: Matrix) -> Rounding:
        """From the values of a matrix, one row for each output, to what they become."""

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
        reshard(network)
        matrices = self.matrices(network)
        with ExitStack() as undo:
            for matrix in matrices:
                adapters = matrix.adapters if self.merge_adapters else ()
                undo.enter_context(rounded_weight(matrix, self.change_of(matrix), adapters=adapters, store=self.store))
            # Undone in reverse order: first the gathered copies of changed weights go, then the shards are restored.
            undo.callback(reshard, network)
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

    def _deployed(self, network: nn.Module) -> Deployed:
        return deployed(network, skip=self.skip, head=self.head)

    def matrices(self, network: nn.Module) -> list[Matrix]:
        """The weights that are changed, each once.

        Raises:
            ValueError: If there are none, or one cannot be changed as it is: flattened, sharded across what belongs
                together, or under an adapter that cannot be merged.
        """
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
            self._check(matrix)
        return found.matrices

    def _check(self, matrix: Matrix) -> None:
        if not matrix.is_computed:  # else the layer itself sees to it that its forward pass computes a whole one
            _check_shape(matrix)
            self.check_placement(matrix)
        if self.merge_adapters:
            _check_mergeable(matrix)

    def check_placement(self, matrix: Matrix) -> None:
        """Refuse a weight whose shards cannot be changed one by one. Defaults to none."""


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
