from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import Tensor, nn

from lightning_unlearn.engine._set_aside import without_logging
from lightning_unlearn.runtime import local, reshard, uninterrupted

Restore = Callable[[], None]


@contextmanager
def isolated(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let anything happen to the module, then restore it bit for bit, also after an exception.

    Restored are buffers, ``.grad`` (the same tensors), ``requires_grad``, train and eval modes, plain Python state (metrics
    included), and the random number generators of torch, numpy and Python. Parameters are not: an attack restores the
    weights that it changes. Trainer loops, optimizers, schedulers and loaders are never entered, so they need no snapshot.

    Inside, gradients are enabled, inference mode is off, ``self.log`` is muted, and compiled modules run eagerly, because
    torch silently ignores hooks that are put on a compiled module.
    """
    # FSDP2 keeps gathered weights after a forward pass. Let go of them before, or attacks would change the copies, and
    # after, or the fit would go on with copies that an attack has left.
    reshard(pl_module)
    restorers = [remember(pl_module) for remember in REMEMBERED]
    fx_name = pl_module._current_fx_name
    try:
        with ExitStack() as stack:
            # Validation runs under inference mode or `no_grad`, where an attack could not compute gradients.
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(without_logging(pl_module))
            yield
    finally:
        with uninterrupted():
            reshard(pl_module)
            for restore in restorers:
                restore()
            pl_module._current_fx_name = fx_name


def remember_buffers(module: nn.Module) -> Restore:
    """Values of all buffers, BatchNorm's statistics among them."""
    # Validation may run under inference mode. A copy made there would be an inference tensor.
    with torch.inference_mode(False), torch.no_grad():
        saved = [(b, local(b).detach().clone()) for b in module.buffers()]

    def restore() -> None:
        with torch.inference_mode(False), torch.no_grad():
            for buffer, value in saved:
                local(buffer).copy_(value)

    return restore


def remember_gradients(module: nn.Module) -> Restore:
    """The gradients in flight, set aside by pointer, and ``requires_grad`` of each parameter."""
    # By pointer: copies would cost a gradient's memory, and DDP's gradients can be views into its reducer's buckets.
    saved = [(p, p.grad, p.requires_grad) for p in module.parameters()]
    for p, _, _ in saved:
        p.grad = None

    def restore() -> None:
        for p, grad, requires_grad in saved:
            p.requires_grad_(requires_grad)
            p.grad = grad

    return restore


def remember_modes(module: nn.Module) -> Restore:
    """Train or eval mode of each submodule."""
    # Set one by one: `train()` would put all of them in the same mode, and call the user's override.
    saved = [(m, m.training) for m in module.modules()]

    def restore() -> None:
        for m, training in saved:
            m.training = training

    return restore


def remember_python_state(module: nn.Module) -> Restore:
    """Numbers, strings, collections, arrays and unregistered tensors that modules keep as plain attributes.

    The states and counters of torchmetrics are such attributes.
    """
    saved = [(m, {k: copy.deepcopy(v) for k, v in m.__dict__.items() if _is_plain(k, v)}) for m in module.modules()]

    def restore() -> None:
        for m, attributes in saved:
            for name, value in attributes.items():
                m.__dict__[name] = _put_back(m.__dict__.get(name), value)

    return restore


def remember_rng(module: nn.Module) -> Restore:
    """Random number generators of torch (all devices), numpy and Python."""
    states = _collect_rng_states()

    def restore() -> None:
        _set_rng_states(states)

    return restore


REMEMBERED = [
    remember_buffers,
    remember_gradients,
    remember_modes,
    remember_python_state,
    remember_rng,
]

_SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)
_COLLECTIONS = (list, tuple, set, frozenset, deque)
_MAPPINGS = (dict, Counter, OrderedDict, defaultdict)
_OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}


def _put_back(now: Any, then: Any) -> Any:
    """``then``, written into the object ``now`` where possible: others may hold a reference to that object."""
    if type(now) is not type(then):
        return then
    if isinstance(now, (np.ndarray, Tensor)) and now.shape == then.shape:
        now[...] = then
    elif isinstance(now, list):
        now[:] = then
    elif isinstance(now, (set, dict)):
        now.clear()
        now.update(then)
    elif isinstance(now, deque):
        now.clear()
        now.extend(then)
    else:
        return then
    return now


def _is_plain(name: str, value: Any) -> bool:
    # torch keeps hooks in dictionaries of its own, by handles that still refer to them: those must not be replaced.
    return name not in _OWN and not name.endswith("_hooks") and _is_data(value)


def _is_data(value: Any) -> bool:
    if isinstance(value, (*_SCALARS, np.ndarray)):
        return True
    if isinstance(value, Tensor):
        return not value.requires_grad and value.is_leaf
    if isinstance(value, _COLLECTIONS):
        return all(_is_data(v) for v in value)
    return isinstance(value, _MAPPINGS) and all(_is_data(v) for v in value.values())
