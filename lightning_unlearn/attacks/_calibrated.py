from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks._held import hooks
from lightning_unlearn.attacks._on_matrices import InPlace, called_linear, refuse_cut_rows
from lightning_unlearn.attacks._rounding import Rounding
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models.layers import Matrix, blocks, eager_if_compiled, sizes
from lightning_unlearn.runtime import drop_copies, eval_mode


class Calibrated(InPlace):
    """An attack on matrices that looks at what goes into each layer first: on retain data, as whoever deploys has them.

    It goes from block to block of the network. What enters a block's layers is observed while all blocks before it are
    already changed, so that errors made there are known here. That takes as many passes over the calibration batches as
    there are blocks, and one for what is outside of them.

    Reached are linear layers that are called with their inputs.

    Args:
        batches: How many retain batches are looked at, the first ones.
        head: As in :class:`OnMatrices`; so are ``skip`` and ``merge_adapters``.
        skip: Names of further layers to leave out.
        merge_adapters: Whether active adapters are merged into the base first.
        store: ``"cpu"`` or ``"device"``, where the original weights are kept.
    """

    needs_data: Literal["attack", "forget", "judged", "retain"] | None = "retain"

    def __init__(
        self,
        *,
        batches: int,
        head: bool,
        skip: Sequence[str],
        merge_adapters: bool,
        store: Literal["device", "cpu"],
    ) -> None:
        check_whole("batches", batches)
        super().__init__(head=head, skip=skip, merge_adapters=merge_adapters, store=store)
        self.batches = batches

    @abstractmethod
    def statistic(self, inputs: Tensor) -> Tensor:
        """What is summed over batches, of ``inputs [N, in]`` of a layer, float32 at least; for ``[0, in]`` it is zero."""

    @abstractmethod
    def calibrated(self, matrix: Matrix, statistic: Tensor) -> Rounding:
        """From the values of a matrix to what they become, given what went into its layer, up to a factor."""

    @override
    def unfit_in(self, network: nn.Module) -> Callable[[Matrix], str]:
        return called_linear(network)

    @override
    def check_placement(self, matrix: Matrix) -> None:
        """Refuse shards that cut through the weights of one output."""
        refuse_cut_rows(matrix)

    @override
    def changes(
        self, network: nn.Module, found: Sequence[Matrix], batches: Iterable[Any], loss: BatchLoss | None, engine: Any
    ) -> Iterator[AbstractContextManager[None]]:
        own = list(islice(batches, self.batches))
        if loss is None or not own:
            raise ValueError(
                f"`{type(self).__name__}` should get batches and a loss that runs the network, to see what goes into its "
                f"layers. Found {len(own)} batches and {'no' if loss is None else 'a'} loss. Fit on retain data, or "
                "give `ForgetRetainData` some."
            )
        for group in _by_block(network, found):
            drop_copies(network)
            for matrix, statistic in self._observed(network, group, own, loss, engine):
                yield self.changed(matrix, self.calibrated(matrix, statistic))
        drop_copies(network)

    def _observed(
        self, network: nn.Module, group: Sequence[Matrix], batches: list[Any], loss: BatchLoss, engine: GradientEngine
    ) -> list[tuple[Matrix, Tensor]]:
        """Each matrix, and the statistic of what goes into its layer. Collective."""
        with torch.inference_mode(False), torch.no_grad():
            sums = [self.statistic(_none_for(matrix)) for matrix in group]
            with hooks() as handles, eval_mode(network), eager_if_compiled(network):
                for matrix, total in zip(group, sums, strict=True):
                    hook = self._adding_to(total)
                    handles.append(matrix.module.register_forward_pre_hook(hook, with_kwargs=True))
                for batch in batches:
                    engine.forward(loss, batch)
            return [(m, engine.average(total)) for m, total in zip(group, sums, strict=True)]

    def _adding_to(self, total: Tensor) -> Any:
        def add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            with torch.autocast(inputs.device.type, enabled=False):
                total.add_(self.statistic(inputs.detach().flatten(0, -2).to(total.dtype)))

        return add


def _none_for(matrix: Matrix) -> Tensor:
    """No inputs at all of its layer."""
    weight = matrix.parameters[0]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.zeros(0, sizes(matrix.module)[0], device=weight.device, dtype=dtype)


def _by_block(network: nn.Module, found: Sequence[Matrix]) -> list[list[Matrix]]:
    """The matrices of each block, in order, and those outside of blocks last."""
    groups = [[m for m in found if m.module in set(block.modules())] for block in blocks(network).values()]
    inside = {id(m) for group in groups for m in group}
    return [group for group in [*groups, [m for m in found if id(m) not in inside]] if group]
