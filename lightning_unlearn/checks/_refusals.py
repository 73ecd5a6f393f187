"""The refusals of `RecoveryCheck`, each by name and with the way out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit
from lightning_unlearn.checks._records import logged_as
from lightning_unlearn.data import Probe, empty_set
from lightning_unlearn.functional.settings import check_kind, check_named, check_whole
from lightning_unlearn.observation import NOT_ATTACKED, Observation
from lightning_unlearn.readouts import Readout, refuse_foreign_tokens
from lightning_unlearn.runtime import in_words


def refuse_settings(
    attacks: Any, audits: Any, probes: Any, readout: Any, control: Any, every: Mapping[str, Any]
) -> None:
    """Refuse arguments of `RecoveryCheck` that are of the wrong kind, or cannot be told apart in logs and reports."""
    for name, number in every.items():
        check_whole(name, number, least=0)
    if readout is not None:
        check_kind("readout", readout, Readout, example="ClassificationReadout()")
    if control is not None and (not isinstance(control, str) or not control):
        raise TypeError(f"`control` should be the path of weights, as text. Found `control = {control!r}`.")
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


def refuse_twins(check: Any, others: Iterable[Any]) -> None:
    """Refuse a second check in the trainer whose results would stand in the log and the report under the same names."""
    for other in (one for one in others if one is not check):
        if same := sorted(check.attacks.keys() & other.attacks.keys()):
            raise ValueError(
                f"Each attack should have a name of its own. Found `{'`, `'.join(same)}` in two `RecoveryCheck`s of the "
                "trainer. Give one another name, or put all attacks into one `RecoveryCheck`."
            )
        same = sorted(check.definitions().keys() & other.definitions().keys())
        if same and _measures(check) != _measures(other):
            raise ValueError(
                f"A metric should be measured in one way. Found `{'`, `'.join(same)}` in two `RecoveryCheck`s of the "
                "trainer with different `audits`, `probes` or `readout`. Give its metrics other names: "
                "`Measure({'other_name': ...})`, or use one `RecoveryCheck`."
            )


def refuse_probes(probes: Mapping[str, Probe], network: nn.Module) -> None:
    """Refuse probes that are empty, that the network cannot read, or of which nothing can be measured."""
    for split, probe in probes.items():
        if not probe.size:
            raise ValueError(empty_set(f"`{split}` probe"))
        for batch, _, _ in probe.batches:
            refuse_foreign_tokens(network, batch)
    answers = [probe.exchanges for probe in probes.values()]
    if None not in answers and not any(len(one.answer) for told in answers for one in told or ()):
        raise ValueError(
            f"Probes should hold at least one supervised label. Found none in `{'`, `'.join(probes)}`: every label is -100, "
            "or the first of its row, which no token predicts. Check what masks the prompt."
        )


def refuse_undefined(observations: Iterable[Observation]) -> None:
    """Refuse scores of the original model that are not numbers: nothing could be compared with them."""
    for o in observations:
        if o.subject == "original" and o.attack == NOT_ATTACKED and math.isnan(o.value):
            many = f"{sum(map(math.isnan, o.scores))} of {len(o.scores)} examples"
            raise ValueError(
                f"Before training, `{o.metric}` should be a number for each example of the split `{o.split}`. Found NaN for "
                f"{many}. Are there NaN among the inputs, or in the weights?"
            )


def _measures(check: Any) -> tuple[Any, ...]:
    return check.definitions(), in_words(check.audits), check.probes, repr(check.readout)


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
