from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._on_matrices import EachAlone, refuse_cut_rows
from lightning_unlearn.attacks._rounding import Rounding
from lightning_unlearn.functional.q4_k import q4_k_bytes
from lightning_unlearn.models._extras import require
from lightning_unlearn.models.layers import Matrix

_BITS = {"Q8_0": 8.5, "Q4_0": 4.5, "Q4_K": 4.5}
_BLOCK = 32
_SUPER_BLOCK = 256


class GGUF(EachAlone):
    """Deploy the network as a GGUF file, as llama.cpp and Ollama do: written to its bytes, and read back.

    ``"Q8_0"`` and ``"Q4_0"`` have a float16 scale for every 32 weights. ``"Q4_K"`` has scales and minima in six bits, see
    :func:`~lightning_unlearn.functional.q4_k.q4_k_bytes`; its blocks are of 256 weights, and a matrix whose rows are no
    multiple of that is stored as Q5_0, as llama.cpp does. One whose rows are no multiple of 32 stays as it is.

    Bytes are written and read by the package ``gguf``, but for the writing of Q4_K, which it only reads. A file that is
    called ``Q4_K_M`` has some matrices in more bits: it is a little milder. There is no importance matrix.

    On sharded parameters (FSDP2) each process rounds its own rows.

    Args:
        kind: ``"Q4_K"``, ``"Q4_0"`` or ``"Q8_0"``.
        head: Whether the output head is rounded too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged into the base before it is rounded.
        store: Where the one copy of the original weights is kept: ``"cpu"`` takes no memory of the device, ``"device"`` is
            faster there, which counts where the attack is a vantage point in each step.

    Raises:
        ModuleNotFoundError: Without gguf.

    Example:
        >>> network = nn.Linear(32, 1, bias=False)
        >>> _ = network.weight.data.copy_(torch.linspace(-8, 7.5, 32))
        >>> with GGUF("Q4_0")(network) as points:
        ...     next(points), network.weight[0, ::8].tolist()
        (4.5, [-8.0, -4.0, 0.0, 4.0])

    References:
        `GGUF <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>`_.
    """

    family: ClassVar[str] = "quant"
    unit: ClassVar[str] = "bits"
    verb: ClassVar[str] = "round"

    def __init__(
        self,
        kind: Literal["Q4_K", "Q4_0", "Q8_0"] = "Q4_K",
        *,
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
        store: Literal["device", "cpu"] = "cpu",
    ) -> None:
        if kind not in _BITS:
            raise ValueError(f"`kind` should be 'Q4_K', 'Q4_0' or 'Q8_0'. Found `kind = {kind!r}`.")
        require("gguf", purpose=f"`GGUF({kind!r})`", pip="lightning-unlearn[gguf]")
        super().__init__(head=head, skip=skip, merge_adapters=merge_adapters, store=store)
        self.kind = kind

    @property
    @override
    def point(self) -> float:
        """Bits of storage for a weight, scales included."""
        return _BITS[self.kind]

    @override
    def unfit_in(self, network: nn.Module) -> Callable[[Matrix], str]:
        def unfit(matrix: Matrix) -> str:
            # What FSDP1 flattens has no rows; it is refused by name.
            fits = not matrix.is_whole or matrix.layout.inputs(matrix.tensor) % _BLOCK == 0
            return "" if fits else f"with rows that are no multiple of {_BLOCK}"

        return unfit

    @override
    def check_placement(self, matrix: Matrix) -> None:
        """Refuse shards that cut through the weights of one output."""
        refuse_cut_rows(matrix)

    @override
    def change_of(self, matrix: Matrix) -> Rounding:
        return self.rounded

    def rounded(self, weight: Tensor) -> Tensor:
        """The values of ``weight``, ``[out, ...]``, after they were written and read."""
        if not weight.numel():  # a process without a shard of it
            return weight
        rows = weight.flatten(1).float()
        kind = "Q5_0" if self.kind == "Q4_K" and rows.shape[1] % _SUPER_BLOCK else self.kind
        return _read(_written(rows, kind), kind).to(weight.device, weight.dtype).reshape(weight.shape)


def _written(rows: Tensor, kind: str) -> Tensor:
    if kind == "Q4_K":
        return q4_k_bytes(rows)
    from gguf import GGMLQuantizationType, quants

    return torch.from_numpy(quants.quantize(rows.cpu().numpy(), GGMLQuantizationType[kind]))


def _read(written: Tensor, kind: str) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    return torch.from_numpy(quants.dequantize(written.cpu().numpy(), GGMLQuantizationType[kind]))
