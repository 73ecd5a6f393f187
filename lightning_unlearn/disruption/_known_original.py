from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch import nn
from typing_extensions import override

from lightning_unlearn.disruption._frozen_weights import CopyBeforeRestore, frozen_state, moved_since
from lightning_unlearn.engine import before_restore
from lightning_unlearn.models.layers import in_adapter
from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import AdapterDisabled, FrozenCopy, Reference, why_adapter_is_not_enough


class KnownOriginal:
    """The original of a fit that is resumed from a checkpoint: it has to be there before the checkpoint is restored.

    Checkpoints hold a hash of each weight of the original, of frozen ones too, by which a resumed fit knows whether they are
    the right ones, and which of the frozen ones the fit has unfrozen, or edited, before it was interrupted. With a fresh
    adapter, the original is the network without it.

    Args:
        trainer: Of the fit, in ``setup``.
        module: The module of the fit.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._trainer, self._module = trainer, module
        self._reference: Reference | None = None
        self._after_setup = trainer.strategy.restore_checkpoint_after_setup
        # Weights that the module loads in its own `setup` come after that of callbacks.
        self._watch = None if self._after_setup else before_restore(trainer, module, self._attach)

    def start(self) -> None:
        """The fit starts. Strategies that shard restore a checkpoint after this, with sharded weights."""
        self.end_watch()
        if self._after_setup:  # whether there is a checkpoint is not known yet
            self._attach()

    def end_watch(self) -> None:
        """Leave no hook on the module."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def state_dict(self) -> dict[str, Any]:
        """Hashes of the weights that the module has now, the original's. Collective: every rank must call it."""
        self._reference = None  # what was kept in `start` is of weights that others may have changed since
        reference = _reference_for(self._module) or FrozenCopy(on_cpu=True)
        reference.attach(self._module)
        return {**reference.state_dict(), "frozen": frozen_state(self._module)}

    def resumed(self, state: dict[str, Any]) -> Callable[[Readout, Any], Likelihood]:
        """Runs readouts on the original of the interrupted fit. Collective: every rank must call it.

        Raises:
            ValueError: If the weights before the checkpoint was restored were not those of the original.
        """
        try:
            if self._reference is None:
                raise ValueError("no weights: the checkpoint was restored by other means than the trainer's")
            moved = moved_since(self._module, state.get("frozen", {}))
            self._reference.load_state_dict(_with_moved(self._reference, state, moved))
        except ValueError as error:
            raise ValueError(
                "A resumed fit should have the original's weights before its checkpoint is restored, for divergences are "
                "measured from there. Load them in `__init__`, `setup` or `configure_model` of the module, and seed what "
                f"starts at random. Found: {error}"
            ) from error
        reference = self._reference
        self._reference = None  # the copy is needed once
        return lambda readout, batch: reference(_OfModule(readout), batch)

    def _attach(self) -> None:
        # Empty for strategies that restore later: nobody has read a checkpoint yet.
        saved = self._trainer._checkpoint_connector._loaded_checkpoint.get("state_dict", {})
        self._reference = _reference_for(self._module) or CopyBeforeRestore(saved)
        self._reference.attach(self._module)


class _OfModule(Readout):
    """Runs the part of a module that ``readout`` runs: references hold the whole module, before a readout is decided on."""

    def __init__(self, readout: Readout) -> None:
        self.readout = readout

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Likelihood:
        return self.readout(self.readout.find_network(network), batch)

    @override
    def keys(self, batch: Any) -> list[str]:
        return self.readout.keys(batch)


def _reference_for(module: nn.Module) -> Reference | None:
    return AdapterDisabled() if why_adapter_is_not_enough(module) is None else None


def _with_moved(reference: Reference, state: dict[str, Any], moved: list[dict[str, int]]) -> dict[str, Any]:
    """The state, where the copy must have what was frozen in the original and has moved since, too."""
    if isinstance(reference, FrozenCopy) and any(moved):
        saved = state["ranks"] if len(state["ranks"]) > 1 else state["ranks"] * len(moved)
        ranks = [{**r, "hashes": {**r["hashes"], **m}} for r, m in zip(saved, moved, strict=True)]
        return {**state, "ranks": ranks}
    if base := sorted({path for of_rank in moved for path in of_rank if not in_adapter(path)}):
        raise ValueError(
            f"{len(base)} weights below the adapter that the interrupted fit has changed, `{base[0]}` first: without its "
            "adapter the network is not the original any more"
        )
    return state
