"""A fit that goes on from a checkpoint of ours, perhaps with another objective, reference, readout or other data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import ForgetStream, rows_of
from lightning_unlearn.forgetting._forget_batches import ForgetBatches
from lightning_unlearn.forgetting._forget_loss import ForgetLoss
from lightning_unlearn.forgetting._one_pass import OnePass
from lightning_unlearn.forgetting._original_loss import OriginalLoss
from lightning_unlearn.forgetting._private_step import PrivateStep
from lightning_unlearn.forgetting._saved_parts import SavedParts
from lightning_unlearn.forgetting._transforms_in_order import TransformsInOrder
from lightning_unlearn.forgetting._vantage_points import VantagePoints
from lightning_unlearn.objectives import Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.references import AdapterDisabled, FrozenCopy, Reference
from lightning_unlearn.runtime import on_every_rank

_OURS = "Unlearn["


class ResumedCallback(pl.Callback):
    """What ``Unlearn`` has in a checkpoint. FSDP reads it before stream and reference exist: it is kept until then.

    A checkpoint of a fit with another objective is found, too.
    """

    objective: Objective
    projector: Projector | None
    _original: OriginalLoss
    _loader: Iterable[Any]
    _stream: ForgetStream
    _batches: ForgetBatches
    _vantage: VantagePoints
    _rewrite: TransformsInOrder
    _one_pass: OnePass
    _private: PrivateStep | None
    _only_learns: bool
    _steps: dict[str, int]
    _restored: dict[str, Any]
    _step_log: dict[str, Tensor]

    @property
    @override
    def state_key(self) -> str:
        """Distinguishes several instances in one trainer by their objectives."""
        return f"Unlearn[{self.objective!r}]"

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from a fit with another objective. If there is a state of this one's own, it is loaded next."""
        self._restored = state_of_another(trainer, self.state_key, checkpoint)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._restored = state_dict

    @override
    def state_dict(self) -> dict[str, Any]:
        """Position in the forget data, counters, and the state of the parts. Every rank must call it."""
        if not hasattr(self, "_original") or not self._original.is_known:
            # A tuner saves before training, and loads again: a state of no step would pass for that of an interrupted fit.
            return self._restored
        return {
            "position": self._batches.position,
            "steps": dict(self._steps),
            "settings": settings_of(self.objective, self._original.loss, self.projector, self._loader),
            "shown": self._original.shown.state_dict(),
            **self._parts().state_dict(),
        }

    def _start_anew(self) -> None:
        """Nothing is left of an earlier fit, or of the run of a tuner."""
        self._private, self._only_learns = None, False
        self._steps, self._restored = {"merged": 0, "taken": 0}, {}
        self._step_log = {}

    def _parts_start_anew(self) -> None:
        """Nor in its parts; not before a fit, as others may use them until then."""
        for part in (*self.objective.modules(), self.projector):
            if isinstance(part, (Objective, Projector)):
                part.start_anew()

    def _parts(self) -> SavedParts:
        return SavedParts(
            objective=self.objective,
            projector=self.projector,
            reference=self._original.loss.reference,
            # Before its first step it has no state; asked for a sharded one, torch would take a step.
            optimizer=self._private if self._steps["merged"] else None,
            transforms=self._rewrite if hasattr(self, "_rewrite") else None,
            under=self._vantage if hasattr(self, "_vantage") else None,
            one_pass=self._one_pass if hasattr(self, "_one_pass") else None,
        )

    def _restore(self) -> None:
        """Load what a checkpoint holds, only once: a second fit must not start from it again."""
        state, self._restored = self._restored, {}
        if not state:
            return
        self._batches.seek(state["position"])
        self._steps = dict(state["steps"])  # before `_parts`, which goes by it
        loss, shown = self._original.loss, self._original.shown
        shown.load_state_dict(state.get("shown", []))
        shown.training_starts()
        settings = settings_of(self.objective, loss, self.projector, self._loader)
        self._original.is_known = resume(state, settings, loss, self._stream, self._parts())


def settings_of(objective: Any, loss: ForgetLoss, projector: Any, loader: Iterable[Any]) -> dict[str, Any]:
    """What a checkpoint keeps of an ``Unlearn``, so that a resumed fit can say what has changed: plain values."""
    rows = rows_of(loader)
    return {
        "objective": repr(objective),
        "readout": type(loss.readout).__name__,
        "reference": type(loss.reference).__name__,
        "projector": type(projector).__name__,
        "rows of the forget data": None if rows is None else len(rows),
    }


def state_of_another(trainer: pl.Trainer, state_key: str, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the ``Unlearn`` that this one follows, if the checkpoint has none of its own: its objective was another.

    Args:
        trainer: Of the fit; what belongs to another of its callbacks is left to that one.
        state_key: Of this ``Unlearn``.
        checkpoint: What is resumed from.

    Raises:
        ValueError: If it cannot be told which of several is followed.
    """
    states = checkpoint.get("callbacks") or {}
    taken = {callback.state_key for callback in trainer.callbacks}  # type: ignore[attr-defined]
    others = [key for key in states if str(key).startswith(_OURS) and key not in taken]
    if state_key in states or not others:
        return {}
    if len(others) > 1:
        raise ValueError(
            f"The checkpoint should have been made with `{state_key}`, or with one other objective, which this fit goes on "
            f"from. Found `{'`, `'.join(others)}`. Resume with these; or load the checkpoint's weights into the module, and "
            "start a new fit without `ckpt_path`."
        )
    state: dict[str, Any] = states[others[0]]
    return state


def resume(
    state: Mapping[str, Any], settings: Mapping[str, Any], loss: ForgetLoss, stream: ForgetStream, parts: SavedParts
) -> bool:
    """Load what still fits, and say what has changed. Collective: every rank must call it.

    Args:
        state: Of the interrupted ``Unlearn``.
        settings: Of this one, from :func:`settings_of`.
        loss: The forget loss, with the reference.
        stream: The forget data.
        parts: Where the state belongs.

    Returns:
        Whether the original is known. If not, it is the network that the checkpoint holds, and still has to be looked at.

    Raises:
        ValueError: If the cached original does not know all forget data.
    """
    before = state.get("settings") or settings
    changed = {name: (before.get(name), now) for name, now in settings.items() if before.get(name) != now}
    parts.load_state_dict({name: value for name, value in state.items() if name not in _outdated(changed)})
    reference = loss.reference
    is_known = reference is None or not reference.needs_sweep or ("reference" not in changed and "reference" in state)
    if changed:
        was = "; ".join(f"`{name}` was `{then}`, is `{now}`" for name, (then, now) in changed.items())
        kept = "" if reference is None else _where_the_original_is(reference, is_known, "reference" in changed)
        rank_zero_warn(f"A resumed fit should have the settings of its checkpoint. Found a second phase: {was}. {kept}")
    if is_known and hasattr(reference, "known"):
        _refuse_unknown_data(reference, loss, stream)
    return is_known


def _outdated(changed: Mapping[str, tuple[Any, Any]]) -> set[str]:
    """Parts whose state is of another kind than the part is now."""
    kinds = {name: [str(value).partition("(")[0] for value in values] for name, values in changed.items()}
    return {name for name in ("objective", "projector", "reference") if name in kinds and len(set(kinds[name])) > 1}


def _where_the_original_is(reference: Reference, is_known: bool, is_new: bool) -> str:
    if isinstance(reference, AdapterDisabled):
        return "The original is still the network without its adapter."
    if isinstance(reference, FrozenCopy) and is_new:
        return (
            "The original is what the module held before the checkpoint was restored: let it load the weights that the "
            "first fit started from."
        )
    if is_known:
        return "The original is still the one of the first fit."
    return (
        "The checkpoint knows nothing of the original, so from now on it is the network in the checkpoint, which has "
        "forgotten already. To keep the first one, use `reference=FrozenCopy()`, and let the module load the weights that "
        "the first fit started from."
    )


def _refuse_unknown_data(reference: Any, loss: ForgetLoss, stream: ForgetStream) -> None:
    """Refuse forget data that the cached original does not know: now, not in the middle of an epoch."""
    keys = [key for batch in stream.sweep() for key in loss.readout.keys(batch)]
    unknown = sum(key not in reference.known for key in keys)
    total, found = (sum(counts) for counts in zip(*on_every_rank((len(keys), unknown)), strict=True))
    if found:
        raise ValueError(
            "A resumed fit should have the forget data of its checkpoint, which holds the original's likelihoods of them. "
            f"Found {found} of {total} examples that it does not know: were data, tokenizer or template changed, or is "
            "the data augmented at random? Resume with the same data; or load the checkpoint's weights into the module, "
            "and start a new fit without `ckpt_path`: then they are the original. `FrozenCopy()` as the reference of "
            "the first fit would have known any data."
        )
