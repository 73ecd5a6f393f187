"""Showing the control to audits that compare with it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_unlearn.audits import Audit
from lightning_unlearn.checks._audits_under_attack import Examined
from lightning_unlearn.checks._control import OtherModel
from lightning_unlearn.checks._intact import Intact
from lightning_unlearn.engine import isolated
from lightning_unlearn.models import swapped_weights
from lightning_unlearn.runtime import Agreement, Misfit, interruptible, uninterrupted


def show_control(control: OtherModel, audits: Sequence[Audit], examined: Examined) -> None:
    """Let ``audits`` look at the network with the weights of the control. It stays as it was. Collective."""
    weights = control.load(examined.network)
    with Agreement("Asking the control") as agreement:
        error = _shown(weights, audits, examined)
        agreement.settle(error, "")
    if error is not None:
        raise error


def _shown(weights: dict[str, Tensor], audits: Sequence[Audit], examined: Examined) -> Exception | None:
    with (
        uninterrupted(),
        Intact()(examined.module, "The control"),
        swapped_weights(examined.network, weights),
        isolated(examined.trainer, examined.module),
    ):
        try:
            with interruptible():
                for audit in audits:
                    audit.see_control(
                        examined.network, readout=examined.readout, probes=examined.probes, engine=examined.engine
                    )
        except Exception as error:  # one rank's may fail while the others wait
            return error
    return None


def refuse_missing_control(control: OtherModel | None, audits: Sequence[Audit]) -> None:
    """Refuse audits that have nothing to compare with."""
    comparing = [audit for audit in audits if audit.needs_control]
    if comparing and control is None:
        name = repr(comparing[0])
        raise Misfit(
            f"`{name}` should have a model that never knew, to compare with. Found no control. Give "
            '`RecoveryCheck(control="...")`, the weights of such a model, or put `FinetuneFirst(control=True)` among the '
            'callbacks; or give the audit a file with its scores, as `TOFU(..., retain="scores.json")`.'
        )
