from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import lightning.pytorch as pl
import torch
from torch import nn

from lightning_unlearn.engine._written_in_forward import written_in_forward
from lightning_unlearn.runtime import (
    PythonState,
    clean_weights,
    drop_copies,
    remember_random_states,
    uninterrupted,
    without_logging,
)
from lightning_unlearn.runtime import remember_buffers as buffers_and

Restore = Callable[[], None]
Remember = Callable[[nn.Module], Restore]

_kept: set[int] = set()
"""What is being kept: ``id`` of modules, and of the random generators. Inside, it need not be kept again."""


def isolated(trainer: pl.Trainer, pl_module: pl.LightningModule) -> AbstractContextManager[None]:
    """Let anything happen to the module, then restore it bit for bit, also after an exception.

    Restored are what :func:`state_kept` and :func:`random_numbers_kept` restore, ``.grad`` (the same tensors), and
    ``requires_grad``. Parameters are not: an attack restores the weights that it changes. Trainer loops, optimizers,
    schedulers and loaders are never entered, so they need no snapshot.

    Inside, weights are without the noise of a step (:class:`WeightNoise`), gradients are enabled, inference mode is off,
    ``self.log`` is muted, and compiled modules run eagerly, because torch silently ignores hooks that are put on a compiled
    module.
    """
    return _isolated(pl_module, REMEMBERED)


def isolated_but_for_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> AbstractContextManager[None]:
    """As :func:`isolated`, but parameters that a forward pass may write to are not restored: for changes of weights."""
    return _isolated(pl_module, [remember_buffers_alone, *REMEMBERED[1:]])


@contextmanager
def _isolated(pl_module: pl.LightningModule, remembered: Sequence[Remember]) -> Iterator[None]:
    # FSDP2 keeps gathered weights after a forward pass. Let go of them before, or attacks would change the copies, and
    # after, or the fit would go on with copies that an attack has left.
    drop_copies(pl_module)
    ours = {id(pl_module), id(_kept)}
    with clean_weights(pl_module), _restored(pl_module, remembered, ours), ExitStack() as stack:
        stack.callback(drop_copies, pl_module)
        # Validation runs under inference mode or `no_grad`, where an attack could not compute gradients.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(without_logging(pl_module))
        yield


@contextmanager
def state_kept(module: nn.Module) -> Iterator[None]:
    """Let a pass through ``module`` move nothing of it: what is no gradient is put back to the bit.

    That is: buffers (statistics of norms, queues, vectors of power iterations), averages of weights that a forward pass
    updates, all that modules keep as plain attributes (hidden states, counters, lists, metrics), and train and eval modes.

    Leave it only after backward, which may run parts of the forward pass again. Inside of another one, or of
    :func:`isolated`, nothing is done twice.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with state_kept(norm):
        ...     _ = norm(torch.randn(4, 2))
        >>> norm.running_mean, int(norm.num_batches_tracked)
        (tensor([0., 0.]), 0)
    """
    if id(module) in _kept:
        yield
        return
    with _restored(module, [remember_buffers, remember_python_state], {id(module)}):
        yield


@contextmanager
def each_pass_kept(module: nn.Module) -> Iterator[None]:
    """Inside of :func:`isolated`: let each pass put back what it moved, as passes outside of it do."""
    was_kept = id(module) in _kept
    _kept.discard(id(module))
    try:
        yield
    finally:
        if was_kept:
            _kept.add(id(module))


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Let passes draw without a trace: afterwards all random generators go on from where they were.

    Inside of another one, or of :func:`isolated`, nothing is done: what is drawn there goes on and on.
    """
    if id(_kept) in _kept:
        yield
        return
    with _restored(nn.Module(), [remember_rng], {id(_kept)}):
        yield


@contextmanager
def _restored(module: nn.Module, remember: Sequence[Remember], kept: set[int]) -> Iterator[None]:
    restorers: list[Restore] = []
    new = kept - _kept
    try:
        with uninterrupted():
            for remember_one in remember:
                restorers.append(remember_one(module))
            _kept.update(new)
        yield
    finally:
        with uninterrupted():
            _kept.difference_update(new)
            with ExitStack() as stack:  # should one fail, the others restore what they have, and then it is raised
                for restore in reversed(restorers):
                    stack.callback(restore)


def remember_buffers(module: nn.Module) -> Restore:
    """Buffers, and parameters that a forward pass may write to."""
    return buffers_and(module, written_in_forward(module))


def remember_buffers_alone(module: nn.Module) -> Restore:
    """Buffers: which they are, and their values."""
    return buffers_and(module)


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


def remember_python_state(module: nn.Module) -> Restore:
    """What modules keep as plain attributes, train and eval modes included."""
    return PythonState(module).put_back


def remember_rng(module: nn.Module) -> Restore:
    """Random number generators of torch (all devices), numpy and Python."""
    return remember_random_states()


REMEMBERED: list[Remember] = [
    remember_buffers,
    remember_gradients,
    remember_python_state,
    remember_rng,
]
