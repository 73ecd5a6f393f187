from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.engine import OwnPass, PrecededPass, SharedPass, offer_pass

_LOOK = ("on_before_zero_grad", "optimizer_zero_grad")


class OldGradient:
    """Frees the last step's gradient right before the next forward pass, where nobody looks at it any more.

    Lightning does it after that pass, so that the old gradient is held while new activations are. The training step of
    :class:`UnlearningModule` asks for its pass, and looks at no gradient; one of the user's own does not ask, and finds
    the gradient where it was.

    Args:
        trainer: Of the fit.
        module: Of the fit.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._trainer, self._module = trainer, module
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        looks = [(callback, _LOOK[0]) for callback in callbacks] + [(module, hook) for hook in _LOOK]
        self._is_looked_at = any(not is_lightnings(getattr(who, hook)) for who, hook in looks)

    def offer(self, shared: SharedPass | None, batch_idx: int) -> None:
        """Offer ``shared``, or a pass alone; where Lightning makes gradients ``None`` after it, they are so before it."""
        waits = batch_idx % self._trainer.accumulate_grad_batches or self._trainer.fit_loop._skip_backward
        shared = OwnPass() if shared is None else shared
        offer_pass(self._module, shared if self._is_looked_at or waits else PrecededPass(self._free, shared))

    def _free(self) -> None:
        for group in self._trainer.optimizers[0].param_groups:
            for param in group["params"]:
                param.grad = None


def is_lightnings(hook: Any) -> bool:
    """Whether a hook is the one of Lightning's base class, which does nothing of interest."""
    return str(hook.__module__).endswith((".callbacks.callback", ".core.hooks", ".core.module"))
