from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._on_kernels import Kernel, OnKernels
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models._extras import require
from lightning_unlearn.models.layers import Matrix, sizes

_BITS = {"int8": 8, "int8-dynamic": 8, "int4": 4}


class TorchAO(OnKernels):
    """Deploy the network with the kernels of torchao, as ``quantize_(model, config)`` would.

    ``"int8"`` rounds weights alone, with a scale per output. ``"int8-dynamic"`` rounds activations, too, with a scale per
    token: its numbers are not those of ``Quantize(8)``. ``"int4"`` rounds weights in groups, to sixteen levels. Only linear
    layers are reached. The network itself is not changed: for a while its linear layers compute by others.

    Args:
        kernel: ``"int8"`` (``Int8WeightOnlyConfig``), ``"int8-dynamic"`` (``Int8DynamicActivationInt8WeightConfig``) or
            ``"int4"`` (``IntxWeightOnlyConfig``).
        group_size: Of ``"int4"``: inputs that share a scale. Layers whose inputs are no multiple of it stay as they are.
        head: Whether the output head is changed, too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged first. Otherwise they work on top.

    Raises:
        ModuleNotFoundError: Without torchao.

    References:
        `torchao <https://github.com/pytorch/ao>`_.
    """

    def __init__(
        self,
        kernel: Literal["int8", "int8-dynamic", "int4"] = "int4",
        *,
        group_size: int = 32,
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
    ) -> None:
        if kernel not in _BITS:
            raise ValueError(f"`kernel` should be 'int8', 'int8-dynamic' or 'int4'. Found `kernel = {kernel!r}`.")
        check_whole("group_size", group_size)
        require("torchao", purpose=f"`TorchAO({kernel!r})`")
        super().__init__(head=head, skip=skip, merge_adapters=merge_adapters)
        self.kernel, self.group_size = kernel, group_size

    @property
    @override
    def point(self) -> int:
        """The number of bits."""
        return _BITS[self.kernel]

    @override
    def unfit_in(self, network: nn.Module) -> Callable[[Matrix], str]:
        no_layer = super().unfit_in(network)
        group = self.group_size if self.kernel == "int4" else 1

        def unfit(matrix: Matrix) -> str:
            fits = no_layer(matrix) or sizes(matrix.module)[0] % group == 0
            return no_layer(matrix) or ("" if fits else f"whose inputs are no multiple of {group}")

        return unfit

    @override
    def kernel_for(self, weight: Tensor, bias: Tensor | None) -> Kernel:
        from torchao.quantization import quantize_

        outputs, inputs = weight.shape
        # Made without memory, so that no first weights are drawn.
        layer: Any = nn.Linear(inputs, outputs, bias is not None, device="meta")
        dtype = weight.dtype if weight.element_size() <= 4 else torch.float32
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        quantize_(layer, self._config())
        return lambda x: layer.eval()(x.to(dtype)).to(x.dtype)

    def _config(self) -> Any:
        from torchao import quantization as ao

        if self.kernel == "int8":
            return ao.Int8WeightOnlyConfig()
        if self.kernel == "int8-dynamic":
            return ao.Int8DynamicActivationInt8WeightConfig()
        four_bits: Any = torch.int4  # type: ignore[attr-defined]
        return ao.IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=ao.PerGroup(self.group_size))
