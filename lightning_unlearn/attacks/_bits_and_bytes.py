from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear
from typing_extensions import override

from lightning_unlearn.attacks._on_kernels import Kernel, OnKernels
from lightning_unlearn.functional.quantization import round_to_codebook
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.models._extras import require

_BITS = {"int8": 8, "nf4": 4, "fp4": 4}
_BLOCK = 64
"""Weights that share a scale, by default."""

_NO_NUMBERS = "meta"
"""Where layers are made, so that their first weights are not drawn."""


class BitsAndBytes(OnKernels):
    r"""Deploy the network with the kernels of bitsandbytes, on CPUs as well: what ``load_in_4bit`` and ``load_in_8bit`` run.

    ``"nf4"`` and ``"fp4"`` round weights alone, as ``Quantize(4, codebook=...)`` does, to the bit. ``"int8"`` is
    ``LLM.int8()``, which rounds activations, too: for inputs :math:`x` and weights :math:`W`,

    .. math:: y = s_x s_W \, \mathrm{round}(x / s_x) \, \mathrm{round}(W / s_W)^\top + x_o W_o^\top

    with a scale for each row of both, and columns :math:`o` in which an activation exceeds ``threshold`` computed in
    float16. So its numbers depend on the batch, and are not those of ``Quantize(8)``.

    Only linear layers are reached, as in a deployment; see :meth:`share_reached`. Embeddings and the output head stay in
    full. The network itself is not changed: for a while its linear layers compute by others. Under FSDP2 each process
    holds all weights in few bits.

    Args:
        kernel: ``"nf4"``, ``"fp4"`` (what ``load_in_4bit=True`` alone means) or ``"int8"``.
        threshold: Of ``"int8"``: activations beyond it are computed in float16; 0 for none.
        head: Whether the output head is changed, too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged first. Otherwise they work on top, as in QLoRA.

    Raises:
        ModuleNotFoundError: Without bitsandbytes.

    Example:
        >>> network, inputs = torch.nn.Linear(64, 8), torch.randn(2, 64)
        >>> with BitsAndBytes("nf4")(network), torch.no_grad():
        ...     deployed = network(inputs)
        >>> from lightning_unlearn import Quantize
        >>> with Quantize(4, codebook="nf4")(network), torch.no_grad():
        ...     torch.allclose(network(inputs), deployed, atol=1e-6)
        True

    References:
        Dettmers et al., `LLM.int8() <https://arxiv.org/abs/2208.07339>`_, 2022, eq. 8, and `QLoRA
        <https://arxiv.org/abs/2305.14314>`_, 2023.
    """

    def __init__(
        self,
        kernel: Literal["int8", "nf4", "fp4"] = "nf4",
        *,
        threshold: float = 6.0,
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
    ) -> None:
        if kernel not in _BITS:
            raise ValueError(f"`kernel` should be 'int8', 'nf4' or 'fp4'. Found `kernel = {kernel!r}`.")
        check_not_negative("threshold", threshold)
        require("bitsandbytes", purpose=f"`BitsAndBytes({kernel!r})`", pip="lightning-unlearn[quant]")
        super().__init__(head=head, skip=skip, merge_adapters=merge_adapters)
        self.kernel, self.threshold = kernel, threshold

    @property
    @override
    def point(self) -> int:
        """The number of bits."""
        return _BITS[self.kernel]

    @override
    def kernel_for(self, weight: Tensor, bias: Tensor | None) -> Kernel:
        return _int8(weight, bias, self.threshold) if self.kernel == "int8" else _four_bits(weight, bias, self.kernel)


def _int8(weight: Tensor, bias: Tensor | None, threshold: float) -> Kernel:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    outputs, inputs = weight.shape
    has_bias = bias is not None
    layer: Any = Linear8bitLt(
        inputs, outputs, has_bias, has_fp16_weights=False, threshold=threshold, device=_NO_NUMBERS
    )
    # It rounds what comes from the CPU.
    layer.weight = Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    _finish(layer, weight, None if bias is None else bias.half())
    # In float16, as where it is deployed; on others it would do the same with a warning.
    return lambda x: layer(x.half()).to(x.dtype)


def _four_bits(weight: Tensor, bias: Tensor | None, kind: Literal["nf4", "fp4"]) -> Kernel:
    from bitsandbytes.nn import Linear4bit, Params4bit

    outputs, inputs = weight.shape
    if weight.device.type == "cpu" and inputs % _BLOCK:
        # Where rows end within a block of scales, the kernel for CPUs with AVX-512 reads wrong ones (0.50): what a layer of
        # that width would compute elsewhere, in our words.
        rounded = round_to_codebook(weight, kind, block_size=_BLOCK)
        return lambda x: linear(x, rounded, bias)
    dtype = weight.dtype if weight.element_size() <= 4 else torch.float32  # no kernel knows float64
    has_bias, settings = bias is not None, {"compress_statistics": False, "quant_type": kind}
    layer: Any = Linear4bit(inputs, outputs, has_bias, compute_dtype=dtype, device=_NO_NUMBERS, **settings)
    layer.weight = Params4bit(weight.to("cpu", dtype), requires_grad=False, module=layer, **settings)
    # On some CPUs it would repack weights for a kernel without a gradient.
    layer.support_avx512bf16_for_cpu = False
    _finish(layer, weight, None if bias is None else bias.to(dtype))
    return lambda x: layer(x)


def _finish(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    layer.to(weight.device).eval()
