from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks._calibrated import Calibrated
from lightning_unlearn.attacks._rounding import Rounding
from lightning_unlearn.attacks._strengths import InBits, check_bits
from lightning_unlearn.functional.error_feedback import round_with_feedback
from lightning_unlearn.functional.settings import check_positive
from lightning_unlearn.models.layers import Matrix


class GPTQ(InBits, Calibrated):
    r"""Deploy the network in few bits, rounded so that its layers' outputs on retain data move as little as they can.

    Weights are rounded one input after another; what is lost on one is made up for by those that are still to come, weighed
    by :math:`H = \mathbb{E}\, x x^\top` of the layer's inputs. It looks at data that must stay, so what it keeps best is
    what they use. See :func:`~lightning_unlearn.functional.error_feedback.round_with_feedback` for the formula.

    Blocks of the network are rounded in order, each on the inputs that it gets from those that are rounded already. A layer
    that no calibration batch goes through is rounded to nearest. Padding counts as input.

    On sharded parameters (FSDP2) each process rounds its own rows by the mean over all processes' batches.

    Args:
        bits: From 2 to 16.
        group_size: Inputs that share a scale; ``None`` for a scale per output channel.
        damp: What is added to the diagonal of :math:`H`, relative to its mean; positive.
        batches: How many retain batches are looked at, the first ones.
        head: Whether the output head is rounded too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged into the base before it is rounded.
        store: Where the one copy of the original weights is kept: ``"cpu"`` takes no memory of the device, ``"device"`` is
            faster there, which counts where the attack is a vantage point in each step.

    Raises:
        ValueError: If there are no retain batches.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.4, 0.4, 1.0]]))
        >>> inputs = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # the first two are always equal
        >>> with GPTQ(bits=2, group_size=None)(layer, batches=[inputs], loss=lambda x: layer(x).sum()) as points:
        ...     next(points), layer.weight.data
        (2, tensor([[0., 1., 1.]]))

    References:
        Frantar et al., `GPTQ <https://arxiv.org/abs/2210.17323>`_, 2023.
    """

    def __init__(
        self,
        bits: int = 4,
        *,
        group_size: int | None = 128,
        damp: float = 0.01,
        batches: int = 16,
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
        store: Literal["device", "cpu"] = "cpu",
    ) -> None:
        check_bits(bits, group_size)
        check_positive("damp", damp)
        super().__init__(batches=batches, head=head, skip=skip, merge_adapters=merge_adapters, store=store)
        self.bits, self.group_size, self.damp = bits, group_size, damp

    @override
    def statistic(self, inputs: Tensor) -> Tensor:
        return inputs.T @ inputs

    @override
    def calibrated(self, matrix: Matrix, statistic: Tensor) -> Rounding:
        def rounded(weight: Tensor) -> Tensor:
            return round_with_feedback(weight, statistic, bits=self.bits, group_size=self.group_size, damp=self.damp)

        return rounded
