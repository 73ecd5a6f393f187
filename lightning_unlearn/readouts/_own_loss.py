"""Running the ``training_step`` of a user's module, and nothing of the fit around it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.readouts._cutting import CUTS, Cut, content_of, glimpse_of
from lightning_unlearn.runtime import eval_without_grad, in_own_containers, local, seeded, without_logging


def seed_of_step(part: Any) -> int:
    """A seed for the draws of a pass in training: another one at each step, the same for the reference."""
    # The random states are left as they are, so the reference's pass and the network's find the same. Some of the batch is
    # hashed, too: the micro-batches of a step should not share their draws.
    return _number(torch.get_rng_state().numpy().tobytes(), glimpse_of(part).encode())


def seed_of_content(part: Any) -> int:
    """A seed for the draws of a measurement: always the same."""
    return _number(content_of(part).encode())


def own_loss(network: nn.Module, part: Any, seed: int) -> Tensor | None:
    """What ``training_step`` returns for ``part``, ``[]``, in float32 at least; ``None`` if it returns none.

    Logs are muted, draws come from ``seed``, and the global random states stay as they are.

    Raises:
        ValueError: If it does not return a scalar, ``{"loss": scalar}`` or ``None``.
    """
    with seeded(seed), without_logging(network):
        try:
            output = _step(network, part)
        except RuntimeError:
            if torch.is_grad_enabled():
                raise
            with torch.enable_grad():  # a gradient penalty differentiates inside of the step
                output = _step(network, part)
    loss = output.get("loss", output) if isinstance(output, Mapping) else output
    if loss is None:
        return None
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(
            f"`training_step` of `{type(network).__name__}` should return a scalar loss, a mapping with it at `loss`, or "
            f"`None`. Found {found}. Return the mean."
        )
    # A sum over many examples would lose its digits in half precision.
    value = loss.reshape(()).to(torch.promote_types(loss.dtype, torch.float32))
    return value if torch.is_grad_enabled() else value.detach()


def no_rows(network: nn.Module) -> Tensor:
    """No loss at all, ``[0]``, that still is part of a graph: ``backward`` through it gives zeros."""
    trained = next((p for p in network.parameters() if p.requires_grad), None)
    return torch.empty(0) if trained is None else local(trained).reshape(-1)[:0]


def find_cut(network: nn.Module, batch: Any) -> Cut | None:
    """How to cut batches of one whose losses make up that of ``batch`` in evaluation mode; ``None`` if there is no way."""
    cuts = [cut for cut in CUTS if len(cut(batch) or ()) > 1]
    with eval_without_grad(network):
        whole = own_loss(network, batch, seed=0) if cuts else None
        return None if whole is None else next((cut for cut in cuts if _adds_up(network, cut(batch), whole)), None)


def draws(network: nn.Module, batch: Any) -> bool:
    """Whether the loss depends on random numbers, in evaluation mode."""
    with eval_without_grad(network):
        losses = [own_loss(network, batch, seed) for seed in (0, 1)]
    return None not in losses and not torch.equal(*losses)  # type: ignore[arg-type]


def first_cut(batch: Any) -> Cut | None:
    """The first form that ``batch`` has, whatever a network makes of it."""
    return next((cut for cut in CUTS if cut(batch)), None)


def how_close(network: nn.Module) -> float:
    """How far two losses may be apart that are computed in two ways, as a share of them."""
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    device = next((p.device.type for p in network.parameters()), "cpu")
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return max(1e-3, 4 * torch.finfo(dtype).eps)


def _adds_up(network: nn.Module, parts: Any, whole: Tensor) -> bool:
    """Whether the mean, or the sum, of the losses of ``parts`` is that of the ``whole``."""
    try:
        losses = [own_loss(network, part, seed=0) for part in parts]
    except Exception:  # a step that never saw a batch of one may raise anything
        return False
    rows = [loss for loss in losses if loss is not None]
    if len(rows) < len(losses):
        return False
    alone = torch.stack(rows)
    made_up = torch.stack([alone.mean(), alone.sum()])
    # Closer than two ways to compute a loss have to be: near the start of training all examples have much the same loss, and
    # a mean over tokens is nearly that over examples. Devices differ more from batch size to batch size than a CPU does.
    close = how_close(network) / (100 if whole.device.type == "cpu" else 10)
    return bool(torch.isclose(made_up, whole.expand(2), rtol=close, atol=1e-7).any())


def _step(network: nn.Module, part: Any) -> Any:
    step: Any = network.training_step
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    params = list(inspect.signature(step).parameters.values())
    named = [p for p in params if p.kind in positional]
    needed = [p for p in named if p.default is inspect.Parameter.empty]
    # As Lightning does: `batch_idx` goes to whatever stands second. A third one is given only to those that need it.
    takes_index = len(named) > 1 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in params)
    return step(in_own_containers(part), *(0 for _ in range(max(int(takes_index), len(needed) - 1))))


def _number(*parts: bytes) -> int:
    return int.from_bytes(blake2b(b"".join(parts), digest_size=8).digest(), "little") >> 1
