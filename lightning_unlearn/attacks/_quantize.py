from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks._on_grid import OnGrid
from lightning_unlearn.attacks._on_matrices import EachAlone, refuse_cut_rows
from lightning_unlearn.attacks._rounding import Rounding
from lightning_unlearn.attacks._strengths import InBits, check_bits
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.by_rows import by_rows
from lightning_unlearn.functional.grids import Grid
from lightning_unlearn.functional.quantization import (
    GroupSize,
    codebook_codes,
    integer_codes,
    round_to_codebook,
    round_to_nearest,
)
from lightning_unlearn.models.layers import Matrix


class Quantize(InBits, EachAlone):
    r"""Deploy the network in few bits: what was unlearned by small weight changes is rounded back.

    Rounded is every weight matrix of a layer of torch or transformers: of linear layers, convolutions (transposed ones,
    too), LSTM, GRU and RNN, ``nn.MultiheadAttention``, ``nn.Bilinear`` and fused experts. Parameters are rounded in place.
    A weight that is computed in each forward pass (pruned, weight norm, spectral norm, any parametrization) is rounded
    after it was computed, and what it is computed from stays.

    Not rounded, as in loaders of quantised models: embeddings and weights tied to them, the output head, biases, norms. Nor
    are what ``skip`` names, weights in few bits, and bare parameters of modules of your own, since nothing tells which of
    them are matrices. :meth:`share_reached` says how much that leaves; with less than half, the report gives no verdict.
    Activations are not rounded: this is weight-only quantisation, so ``bits=8`` is milder than ``LLM.int8()``.

    A network that was stored on the very grid it is rounded to (an nf4 base under nf4) is named in a warning, once: there
    small changes are erased exactly, and on no other grid.

    On sharded parameters (FSDP2) each process rounds its own rows. The result is the same as for the whole weight.

    Args:
        bits: From 2 to 16; 4 for a codebook.
        group_size: Weights that share a scale. Defaults to a scale per output channel for integers and to blocks of 64,
            as in bitsandbytes, for codebooks. ``"tensor"`` is one scale for a whole matrix, of integers.
        codebook: ``"int"`` for evenly spaced levels; ``"nf4"`` or ``"fp4"`` (what ``load_in_4bit=True`` alone means) for
            those of bitsandbytes, bit for bit.
        head: Whether the output head is rounded too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged into the base before it is rounded, as in a deployment that
            merges first. Otherwise the base alone is rounded, and the adapters work on top, as in QLoRA.
        store: Where the one copy of the original weights is kept: ``"cpu"`` takes no memory of the device, ``"device"`` is
            faster there, which counts where the attack is a vantage point in each step.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(3, 1)
        >>> _ = network.weight.data.copy_(torch.tensor([[0.1, -0.9, 1.0]]))
        >>> with Quantize(bits=2)(network) as points:
        ...     next(points), network.weight.tolist()
        (2, [[0.0, -1.0, 1.0]])
        >>> network.weight.data
        tensor([[ 0.1000, -0.9000,  1.0000]])

    References:
        Zhang et al., `Catastrophic Failure of LLM Unlearning via Quantization <https://arxiv.org/abs/2410.16454>`_,
        2025. Their 4 bits are ``codebook="fp4"``.
    """

    def __init__(
        self,
        bits: int = 8,
        *,
        group_size: GroupSize = None,
        codebook: Literal["int", "nf4", "fp4"] = "int",
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
        store: Literal["device", "cpu"] = "cpu",
    ) -> None:
        check_bits(bits, None if group_size == "tensor" else group_size)
        if codebook not in ("int", "nf4", "fp4"):
            raise ValueError(f"`codebook` should be 'int', 'nf4' or 'fp4'. Found `codebook = {codebook!r}`.")
        if codebook != "int" and bits != 4:
            raise ValueError(f"`bits` should be 4 for the codebook {codebook!r}. Found `bits = {bits}`.")
        if group_size == "tensor" and codebook != "int":
            raise ValueError(f"`group_size` should be a number for the codebook {codebook!r}. Found 'tensor'.")
        super().__init__(head=head, skip=skip, merge_adapters=merge_adapters, store=store)
        self.bits = bits
        self.group_size = group_size
        self.codebook: Literal["int", "nf4", "fp4"] = codebook
        self._on_grid = OnGrid()

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
        with super().__call__(network, batches=batches, loss=loss, engine=engine) as points:
            self._on_grid.settle(f"`{type(self).__name__}(bits={self.bits})`")
            yield points

    @override
    def change_of(self, matrix: Matrix) -> Rounding:
        """From the values of a matrix, one row for each output, to what they become."""
        # What is computed is rounded inside of a forward pass, which may be compiled, and goes on there after this look.
        if matrix.is_computed:
            return self.rounded
        change = self.rounded if self._on_grid.is_settled else self._noting()
        if self.group_size == "tensor":
            return change
        # Rounding takes some ten times the memory of what it rounds. Blocks of a codebook run on from row to row.
        return partial(by_rows, change, multiple=1 if self.codebook == "int" else self._block_size)

    def rounded(self, weight: Tensor) -> Tensor:
        """The values of ``weight``, ``[out, ...]``, after rounding to few bits."""
        if self.codebook == "int":
            return round_to_nearest(weight, bits=self.bits, group_size=self.group_size)
        return round_to_codebook(weight, self.codebook, block_size=self._block_size)

    def codes(self, weight: Tensor) -> Tensor:
        """Which level each weight is stored as, ``[out, ...]`` int32.

        For :func:`~lightning_unlearn.functional.quantization.flipped_fraction`.
        """
        if self.codebook == "int":
            return integer_codes(weight, bits=self.bits, group_size=self.group_size)
        return codebook_codes(weight, self.codebook, block_size=self._block_size)

    @property
    def grid(self) -> Grid:
        """The levels that weights are rounded to."""
        return Grid(self.bits, self.group_size, self.codebook)

    def _noting(self) -> Callable[[Tensor], Tensor]:
        """As :meth:`rounded`; of the first piece of a matrix it is noted whether it lies on the grid."""
        first = iter([True])

        def rounded(weight: Tensor) -> Tensor:
            values = self.rounded(weight)
            if next(first, False):
                self._on_grid.saw(weight, values, self.grid)
            return values

        return rounded

    @property
    def _block_size(self) -> int:
        return self.group_size if isinstance(self.group_size, int) else 64  # as in bitsandbytes

    @override
    def check_placement(self, matrix: Matrix) -> None:
        """Refuse shards that cut through what shares a scale."""
        weight = matrix.tensor
        if not isinstance(weight, DTensor):
            return
        refuse_cut_rows(matrix)
        sharded = any(p.is_shard() for p in weight.placements)
        if sharded and self.group_size == "tensor":
            raise ValueError(
                f"The weight of `{matrix.layer}` should be whole in each process to have one scale. Found "
                f"{weight.placements}. Leave `group_size` out, for a scale per output channel."
            )
        # Blocks of a codebook go through the flattened weight, and may run on from one channel into the next.
        inputs = matrix.layout.inputs(weight)
        if self.codebook != "int" and sharded and inputs % self._block_size:
            raise ValueError(
                f"Blocks of {self._block_size} should divide the {inputs} inputs of `{matrix.layer}`, so that each belongs "
                f"to one process. Set a `group_size` that does, or name it in `skip`."
            )
