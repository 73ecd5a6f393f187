"""Reading a language model at chosen positions only, before its output head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_unlearn.models.layers import eager_if_inside_compiled, output_head
from lightning_unlearn.readouts._putting_off import may_be_put_off, putting_off
from lightning_unlearn.readouts._router import router_loss
from lightning_unlearn.readouts._vocabulary import read_cheaply


class Read(NamedTuple):
    """What a network gave.

    Args:
        logits: ``[N, V]``.
        features: What the head saw, ``[N, D]``, if it was asked for.
        router_loss: What the network adds to its own loss, ``[]``, if it does.
    """

    logits: Tensor
    features: Tensor | None
    router_loss: Tensor | None


def read_at(
    network: nn.Module,
    inputs: Mapping[str, Any],
    chosen: Tensor,
    *,
    keep_features: bool = False,
    logits_at_most: int | None = None,
) -> Read:
    """Run ``network``, and let its head see the ``chosen [B, T]`` positions only, ``N`` of them.

    Args:
        network: The network.
        inputs: Of its ``forward``.
        chosen: The positions, ``[B, T]`` bool.
        keep_features: Keep what the head saw.
        logits_at_most: More of them are put off inside :func:`read_for_a_loss`. ``None`` for :func:`logits_at_once`.

    Raises:
        ValueError: If features are to be kept and the head does not see one hidden state per position, or the network
            gives logits of fewer positions.
    """
    gathered: list[Tensor] = []
    head = output_head(network)
    at_most = logits_at_most if may_be_put_off(network, head) else math.inf
    with (
        _gathering(head, chosen, gathered),
        eager_if_inside_compiled(network, head),
        read_cheaply(network, head),
        putting_off(head, at_most),
    ):
        output = network(**inputs)
    logits = output.logits
    # [N, V] if the head saw gathered states; [B, T, V] if the hook could not gather, or there is no head to put it on.
    if logits.dim() == 3:
        if logits.shape[1] < chosen.shape[1]:
            raise ValueError(
                f"A language model should give logits at all {chosen.shape[1]} positions. Found those of "
                f"{logits.shape[1]} from `{type(network).__name__}`. Write a `Readout` of your own that asks it for all."
            )
        logits = _at(logits, chosen)
    if keep_features and not gathered:
        raise ValueError(
            "`keep_features=True` should find an output head that sees one hidden state per position. Found none in "
            f"`{type(network).__name__}`. Use `keep_features=False`."
        )
    return Read(logits, gathered[0] if keep_features else None, router_loss(network, output))


def _at(values: Tensor, chosen: Tensor) -> Tensor:
    """The rows of ``values [B, T, D]`` at the ``chosen [B, T]`` positions, ``[N, D]``."""
    # Counted from the end: prompt tuning puts positions of its own before the batch's.
    return values[:, -chosen.shape[1] :][chosen]


@contextmanager
def _gathering(head: nn.Module | None, chosen: Tensor, gathered: list[Tensor]) -> Iterator[None]:
    """Let ``head`` see only the hidden states at the ``chosen [B, T]`` positions."""

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        # `None` leaves the head's input alone: this one does not have a hidden state for each of the T positions.
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[1] < chosen.shape[1]:
            return None
        if len(hidden) != len(chosen):
            return None
        gathered.append(_at(hidden, chosen))
        return gathered[-1], *args[1:]

    handle = None if head is None else head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
