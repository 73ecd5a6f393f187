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
from lightning_unlearn.runtime import local, reshard

Restore = Callable[[], None]


@contextmanager
def isolated(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let anything happen to the module, and put everything back bit for bit, also after an exception.

    Put back: buffers, ``.grad`` (the same tensors), ``requires_grad``, train and eval modes, plain Python state
    (metrics included), and the random number generators of torch, numpy and Python. Parameters are the business of
    whoever changes them: an attack restores what it writes. Trainer loops, optimizers, schedulers and loaders are never
    entered, so they need no snapshot.

    Inside, gradients are enabled, inference mode is off, ``self.log`` is muted, and compiled modules run eagerly (a hook
    put on a compiled module would be silently ignored).
    """
    reshard(pl_module)
    restorers = [remember(pl_module) for remember in REMEMBERED]
    fx_name = pl_module._current_fx_name
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(without_logging(pl_module))
            yield
    finally:
        reshard(pl_module)
        for restore in restorers:
            restore()
        pl_module._current_fx_name = fx_name


def remember_buffers(module: nn.Module) -> Restore:
    """Values of all buffers, BatchNorm's statistics among them."""
    with torch.inference_mode(False), torch.no_grad():
        saved = [(b, local(b).detach().clone()) for b in module.buffers()]

    def restore() -> None:
        with torch.inference_mode(False), torch.no_grad():
            for buffer, value in saved:
                local(buffer).copy_(value)

    return restore


def remember_gradients(module: nn.Module) -> Restore:
    """The gradients in flight, set aside by pointer, and which parameters have any."""
    saved = [(p, p.grad, p.requires_grad) for p in module.parameters()]
    for p, _, _ in saved:
        p.grad = None

    def restore() -> None:
        for p, grad, requires_grad in saved:
            p.requires_grad_(requires_grad)
            p.grad = grad

    return restore


def remember_modes(module: nn.Module) -> Restore:
    """Train or eval, of each submodule."""
    saved = [(m, m.training) for m in module.modules()]

    def restore() -> None:
        for m, training in saved:
            m.training = training

    return restore


def remember_python_state(module: nn.Module) -> Restore:
    """Numbers, strings, collections, arrays and stray tensors that modules keep as plain attributes.

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
    """``then``, in the object it was in, which others may hold too."""
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
    # torch keeps hooks and slots in dictionaries of its own: those are not the user's, and hold identities.
    return name not in _OWN and not name.endswith("_hooks") and _is_data(value)


def _is_data(value: Any) -> bool:
    if isinstance(value, (*_SCALARS, np.ndarray)):
        return True
    if isinstance(value, Tensor):
        return not value.requires_grad and value.is_leaf
    if isinstance(value, _COLLECTIONS):
        return all(_is_data(v) for v in value)
    return isinstance(value, _MAPPINGS) and all(_is_data(v) for v in value.values())
