from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks._on_matrices import OnMatrices, called_linear
from lightning_unlearn.attacks._rounding import editing, merged_rows, scales_kept, silence_
from lightning_unlearn.engine import GradientEngine, gathered
from lightning_unlearn.models.layers import Matrix, eager_if_compiled
from lightning_unlearn.runtime import uninterrupted

Kernel = Callable[[Tensor], Tensor]
"""From the inputs of a linear layer to its outputs."""


class OnKernels(OnMatrices):
    """Deploy the network with the kernels of a library: each linear layer computes what the library's own one would.

    No parameter and no module is replaced. For a while each layer has another ``forward``: names, order, hooks, shards and
    tied weights stay as they are, and there is nothing to restore. Each process keeps the weights in few bits, whole.

    Reached are linear layers that are called with their inputs. Where several parts read one weight, as the output
    projection of ``nn.MultiheadAttention``, and in other layers, no such kernel exists, and the weight stays as it is.

    Gradients go straight through: to weights as if they were not rounded, and to inputs through the kernel, if it has a
    gradient.
    """

    verb: ClassVar[str] = "store in few bits"
    family: ClassVar[str] = "quant"
    unit: ClassVar[str] = "bits"
    each_layer: ClassVar[bool] = True

    @abstractmethod
    def kernel_for(self, weight: Tensor, bias: Tensor | None) -> Kernel:
        """What computes the layer: of ``weight [out, in]`` and ``bias [out]``, which are copies."""

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
        # A compiled graph goes on with what it has seen.
        with eager_if_compiled(network), super().__call__(network, batches=batches, loss=loss, engine=engine) as points:
            yield points

    @override
    def unfit_in(self, network: nn.Module) -> Callable[[Matrix], str]:
        return called_linear(network)

    @override
    def changes(
        self, network: nn.Module, found: Sequence[Matrix], *given: Any
    ) -> Iterator[AbstractContextManager[None]]:
        return (self._changed(matrix, self.adapters_of(matrix)) for matrix in found)

    @contextmanager
    def _changed(self, matrix: Matrix, adapters: Sequence[Any]) -> Iterator[None]:
        layer: Any = matrix.module
        with scales_kept(adapters):
            with editing():
                bias = None if layer.bias is None else gathered(layer.bias.detach()).clone()
                kernel = self.kernel_for(merged_rows(matrix, adapters).contiguous(), bias)
            silence_(adapters)
            with _computed_by(layer, kernel):
                yield


@contextmanager
def _computed_by(layer: Any, kernel: Kernel) -> Iterator[None]:
    given, forward = vars(layer).get("forward"), layer.forward

    def run(*args: Tensor, **named: Tensor) -> Tensor:
        inputs = args[0] if args else next(iter(named.values()))
        outputs = kernel(inputs)
        is_frozen = outputs.requires_grad and not any(p.requires_grad for p in layer.parameters())
        if is_frozen or not torch.is_grad_enabled():
            return outputs
        straight: Tensor = forward(inputs.detach() if outputs.requires_grad else inputs).to(outputs.dtype)
        return outputs + (straight - straight.detach())  # exact: zero is added

    try:
        layer.forward = run
        yield
    finally:
        with uninterrupted():
            vars(layer).pop("forward", None)
            if given is not None:
                vars(layer)["forward"] = given
