"""The refusals of `RecoveryCheck`, each by name and with the way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit
from lightning_unlearn.checks._records import logged_as
from lightning_unlearn.functional.settings import check_kind, check_named, check_whole
from lightning_unlearn.observation import NOT_ATTACKED
from lightning_unlearn.readouts import Readout


def refuse_settings(attacks: Any, audits: Any, probes: Any, readout: Any, every: Mapping[str, Any]) -> None:
    """Refuse arguments of `RecoveryCheck` that are of the wrong kind, or cannot be told apart in logs and reports."""
    for name, number in every.items():
        check_whole(name, number, least=0)
    if readout is not None:
        check_kind("readout", readout, Readout, example="ClassificationReadout()")
    check_named("attacks", attacks or {}, Attack, example='{"int4": Quantize(bits=4)}')
    if NOT_ATTACKED in (attacks or {}):
        raise ValueError(
            f'`attacks` should not use the name "{NOT_ATTACKED}": it stands for the model without an attack.'
        )
    check_named("probes", probes or {}, object, example='{"retain": loader}')
    if audits is not None:
        _refuse_audits(audits)


def refuse_same_names(audits: Iterable[Audit], splits: Iterable[str]) -> None:
    """Refuse metrics that two audits share, or that are logged under one name.

    Args:
        audits: The audits.
        splits: Names of the examples, as far as they are known.
    """
    metrics = [name for audit in audits for name in audit.definitions()]
    if twice := _twice(metrics):
        raise ValueError(
            f"Each metric should come from one of `audits`. Found `{'`, `'.join(twice)}` more than once in {audits}. Leave "
            "one out, or give it other names: `Measure({'other_name': ...})`."
        )
    keys = {(split, metric): logged_as(split, metric) for split in dict.fromkeys(splits) for metric in metrics}
    if twice := _twice(keys.values()):
        same = " and ".join(f"`{m}` on the split `{split}`" for (split, m), key in keys.items() if key == twice[0])
        raise ValueError(
            f"Each metric should have a name of its own in the log. Found {same}, both logged as "
            f"`recovery/<attack>/{twice[0]}`. Give the metric or the split another name."
        )


def _refuse_audits(audits: Any) -> None:
    if not isinstance(audits, list | tuple):
        raise TypeError(f"`audits` should be a list, such as `[Measure()]`. Found `{audits!r}`.")
    for audit in audits:
        check_kind("audits", audit, Audit, example="Measure()")
    if not audits:
        raise ValueError(
            "`audits` should hold at least one audit: without one, nothing is measured. Found none. Leave it out for "
            "`Measure()` and `Specificity()`."
        )


def _twice(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
