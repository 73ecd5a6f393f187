"""Weights that are changed for a while: found, moved by one step, and put back from a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.runtime import KeptTensors, drop_copies, local, uninterrupted
from lightning_unlearn.runtime._kept_tensors import without_repeats


def trainable(
    network: nn.Module, who: str, way_out: str = "Unfreeze some", *, among: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """The parameters that are not frozen, each once; only those ``among`` some, if these are given.

    Raises:
        ValueError: If there are none.
    """
    params: list[Tensor] = [p for p in (network.parameters() if among is None else among) if p.requires_grad]
    if not params:
        raise ValueError(f"{who} should find trainable parameters. Found none. {way_out}.")
    return params


def refuse_flattened(engine: GradientEngine, who: str) -> None:
    """Refuse strategies under which parameters have lost their shapes.

    Raises:
        NotImplementedError: Under FSDP1 and DeepSpeed.
    """
    if engine.kind in ("fsdp1", "deepspeed"):
        found = {"fsdp1": "FSDP1", "deepspeed": "DeepSpeed"}[engine.kind]
        raise NotImplementedError(
            f"{who} should find parameters with their own shapes. Found {found}, which flattens them. "
            " Use DDP or `ModelParallelStrategy` (FSDP2), or leave the attack out."
        )


@contextmanager
def restored(network: nn.Module, tensors: Sequence[Tensor], *, store: str = "device") -> Iterator[KeptTensors]:
    """Let ``tensors`` of ``network`` change until the block is left; then they hold what they held, bit for bit.

    Args:
        network: The network whose parameters or buffers they are.
        tensors: What may change.
        store: ``"cpu"`` or ``"device"``, where the copy is kept.
    """
    # FSDP2 may still hold gathered weights, and would use them instead of the shards that change; and again afterwards.
    drop_copies(network)
    kept = KeptTensors(tensors, on_cpu=store == "cpu")
    try:
        yield kept
    finally:
        with uninterrupted():
            drop_copies(network)
            kept.put_back()


@contextmanager
def interpolated(
    network: nn.Module, tensors: Sequence[Tensor], others: Iterable[Tensor], alpha: float
) -> Iterator[None]:
    r"""Let ``tensors`` of ``network`` hold :math:`(1 - \alpha) \, \theta + \alpha \, \theta_o` until the block is left.

    Args:
        network: The network whose parameters or buffers they are.
        tensors: What is moved.
        others: Where to, one for each; of a sharded tensor this process's part. They are read one after the other.
        alpha: How far: 0 changes nothing, 1 arrives.
    """
    with restored(network, tensors, store="cpu"):
        with torch.inference_mode(False), torch.no_grad():
            for tensor, other in zip(tensors, others, strict=True):
                now = local(tensor).data
                # `lerp` is exact at both ends.
                now, other = without_repeats(now, other)
                now.copy_(torch.lerp(now.to(in_full(now)), other.to(now.device, in_full(now)), alpha))
        yield


def move_(params: Iterable[Tensor], deltas: Iterable[Tensor | None], who: str) -> None:
    """Add to each parameter its delta, if it has one, in float32 at least; it is rounded once.

    Warns if rounding swallows most of the step. Nothing is ever subtracted again, since ``p + d - d`` is not ``p``, least of
    all in half precision: see :func:`restored`.
    """
    share = RealisedShare(who)
    with torch.inference_mode(False), torch.no_grad():
        for p, delta in zip(params, deltas, strict=True):
            if delta is None:
                continue
            weight, wanted = local(p).data, local(delta)
            if not is_half(weight):
                weight.add_(wanted)
                continue
            before = weight.clone()
            weight.copy_(weight.float() + wanted)
            share.add(wanted, weight.float() - before.float())
    share.warn()


def in_full(tensor: Tensor) -> torch.dtype:
    """The type to compute in: float32, or that of ``tensor`` if it has more bits."""
    return torch.promote_types(tensor.dtype, torch.float32)


def is_half(tensor: Tensor) -> bool:
    """Whether numbers have fewer bits than float32."""
    return tensor.is_floating_point() and tensor.element_size() < 4


class RealisedShare:
    r"""How much of a step arrives in weights of half precision, which swallow what is below their resolution.

    The share is that of the intended step that the step taken has along it, in this process.

    .. math:: \frac{\langle \text{taken}, \text{intended} \rangle}{\lVert \text{intended} \rVert^2}

    Args:
        who: Whose step it is, for the warning.

    Example:
        >>> share = RealisedShare("`Noise`")
        >>> share.value  # nothing was rounded
        1.0
        >>> share.add(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0]))
        >>> share.value
        0.36
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._sums: list[Tensor] = []

    def add(self, intended: Tensor, taken: Tensor) -> None:
        """Count one tensor."""
        a, b = intended.detach().float().flatten(), taken.detach().float().flatten()
        self._sums.append(torch.stack([a @ b, a @ a]))

    @property
    def value(self) -> float:
        """The share; 1 if nothing was intended, or nothing counted."""
        if not self._sums:
            return 1.0
        along, whole = torch.stack([s.cpu() for s in self._sums]).sum(0).tolist()
        return along / whole if whole else 1.0

    def warn(self) -> None:
        """Warn if less than half of the step arrived."""
        # Without the figure, so that Python shows it once, and not in each step of a fit.
        if self.value < 0.5:
            rank_zero_warn(
                f"The step of {self._who} should reach the weights. Found that rounding to their half precision swallows "
                "more than half of it: the attack looks weaker than it is. Train the module in float32 "
                "(`precision='bf16-mixed'`), or take a larger step."
            )
