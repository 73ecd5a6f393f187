from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_unlearn.runtime._interrupts import uninterrupted
from lightning_unlearn.runtime._sharding import drop_copies, local

# By module, and only while the noise is on.
_on: WeakKeyDictionary[nn.Module, WeightNoise] = WeakKeyDictionary()


class WeightNoise:
    """Noise on the weights of a module while the gradients of a step are computed.

    The weights themselves are kept as a copy, and are not computed back: a sum less the noise is not the sum. Whoever needs
    them meanwhile uses :func:`clean_weights`; :func:`isolated` does.

    Args:
        module: The module of the fit.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = layer.weight.data.fill_(0.25)
        >>> noise = WeightNoise(layer)
        >>> noise.put_on([layer.weight], lambda i: torch.full((1, 1), 5.0))
        >>> with clean_weights(layer):
        ...     layer.weight.item()
        0.25
        >>> _ = layer.weight.data.sub_(1)  # an optimizer's step
        >>> settle_noise(layer)  # the weights without the noise take it, too
        >>> layer.weight.item()
        -0.75
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._params: list[Tensor] = []
        self._noise: Callable[[int], Tensor]
        self._clean: list[Tensor] = []

    def put_on(self, params: Sequence[Tensor], noise: Callable[[int], Tensor]) -> None:
        """Add ``noise(i)`` to the local shard of the ``i``-th parameter. Called again, it must give the same."""
        self.take_off()
        self._params, self._noise = list(params), noise
        self._put_on_again()

    def take_off(self) -> None:
        """Give the module its own weights, bit for bit, if there is noise on them."""
        if _on.pop(self._module, None) is None:
            return
        with uninterrupted(), torch.no_grad():
            for p, clean in zip(self._params, self._clean, strict=True):
                local(p).copy_(clean)
            self._clean = []
            drop_copies(self._module)

    @torch.no_grad()
    def settle(self) -> None:
        """After a step from the noisy weights: take the same step from the weights themselves, and the noise off."""
        for i, (p, clean) in enumerate(zip(self._params, self._clean, strict=True)):
            precise = torch.promote_types(clean.dtype, torch.float32)
            noisy, moved = self._noisy(i, clean), local(p)
            step = moved.to(precise) - noisy.to(precise)
            # Where there was no noise, the result of the step is known to the bit.
            settled = torch.where(noisy == clean, moved, (clean.to(precise) + step).to(clean.dtype))
            clean.copy_(settled)
        self.take_off()

    @torch.no_grad()
    def _put_on_again(self) -> None:
        drop_copies(self._module)
        self._clean = [local(p).detach().clone() for p in self._params]
        _on[self._module] = self
        for i, (p, clean) in enumerate(zip(self._params, self._clean, strict=True)):
            local(p).copy_(self._noisy(i, clean))

    def _noisy(self, i: int, clean: Tensor) -> Tensor:
        # Added in float32 at least, and rounded once.
        precise = torch.promote_types(clean.dtype, torch.float32)
        return (clean.to(precise) + self._noise(i).to(precise)).to(clean.dtype)


@contextmanager
def clean_weights(module: nn.Module) -> Iterator[None]:
    """Let ``module`` have its own weights, without the noise on them, if there is any; afterwards it is put on again.

    Also if ``module`` is only a part of the one that has the noise.
    """
    noise = next((on for whole, on in _on.items() if any(part is module for part in whole.modules())), None)
    if noise is None:
        yield
        return
    noise.take_off()
    try:
        yield
    finally:
        noise._put_on_again()


def settle_noise(module: nn.Module) -> None:
    """After a step: give ``module`` the weights that the step leads to without the noise, if there is any."""
    if (noise := _on.get(module)) is not None:
        noise.settle()
