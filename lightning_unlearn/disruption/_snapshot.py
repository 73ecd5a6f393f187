from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.engine import clean_weights, written_in_forward
from lightning_unlearn.references import Original, copied, copy_of, moves
from lightning_unlearn.runtime import drop_copies, uninterrupted


class Snapshot:
    """A copy, in main memory, of what training changes: trained parameters, floating-point buffers, moving averages.

    Under FSDP2 each process copies its own shards. Noise on the weights (:class:`WeightNoise`) is no part of it.

    Args:
        module: The module.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> snapshot = Snapshot(layer)
        >>> snapshot.take()
        >>> _ = layer.weight.data.add_(1.0)
        >>> snapshot.is_current(), snapshot.put_back(), snapshot.is_current()
        (False, None, True)
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kept: list[Original] = []

    def take(self) -> None:
        """Copy what is there now."""
        drop_copies(self._module)
        self._kept = [each for each in self._kept if each.found() is not None]
        with torch.no_grad(), clean_weights(self._module):
            for each in self._kept:
                each.value.copy_(each.now())
        self.join()

    def join(self) -> None:
        """Copy what is not held yet and may move from now on, such as parameters that were unfrozen."""
        held = {id(each.found()) for each in self._kept}
        written = {id(p) for p in written_in_forward(self._module)}

        def is_new(tensor: Tensor) -> bool:
            moved = moves(tensor) or id(tensor) in written
            return moved and id(tensor) not in held and tensor.is_floating_point()

        if any(is_new(t) for t in (*self._module.parameters(), *self._module.buffers())):
            drop_copies(self._module)
            with clean_weights(self._module):
                self._kept += copied(self._module, is_new, on_cpu=True)

    def put_back(self) -> None:
        """Write the copy back.

        Raises:
            ValueError: If what was copied is gone, or has another shape.
        """
        if gone := [each.path for each in self._kept if each.found() is None]:
            raise ValueError(
                f"Weights should be put back where they were copied. Found that `{gone[0]}` was replaced since. Change the "
                "architecture before the fit, or use `DisruptionBudget(on_exceed='stop')` or `'warn'`."
            )
        with uninterrupted(), torch.no_grad(), clean_weights(self._module):
            drop_copies(self._module)
            for each in self._kept:
                each.now().copy_(each.value)

    def is_current(self) -> bool:
        """Whether the module holds, on this rank, what was copied."""
        drop_copies(self._module)
        return all(each.found() is not None and torch.equal(each.now().cpu(), each.value) for each in self._kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The copies, by path."""
        return {each.path: each.value for each in self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.take()
        found = [copy_of(self._module, path, value, on_cpu=True) for path, value in state.items()]
        self._kept = [each for each in self._kept if each.path not in state] + [f for f in found if f is not None]
