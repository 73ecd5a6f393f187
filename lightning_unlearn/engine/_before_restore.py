from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch import nn


def before_restore(trainer: pl.Trainer, module: nn.Module, then: Callable[[], object]) -> Any:
    """Call ``then`` once, right before the trainer loads the weights of a checkpoint into ``module``.

    No callback hook runs there: weights that the module loads in its own ``setup``, and networks that it builds in
    ``configure_model``, come after the ``setup`` of callbacks.

    Args:
        trainer: With a strategy that restores before the fit starts.
        module: The module of the fit.
        then: What to do.

    Returns:
        A handle: ``handle.remove()`` ends the watch.
    """
    called = False

    def hook(loaded: nn.Module, *args: Any) -> None:
        nonlocal called
        # Copies of the module, as for averaged weights, have this hook too. And the user's code may load weights into the
        # module before, when the trainer has not read a checkpoint yet, and after.
        if loaded is module and trainer._checkpoint_connector._loaded_checkpoint and not called:
            called = True
            then()

    return module.register_load_state_dict_pre_hook(hook)
