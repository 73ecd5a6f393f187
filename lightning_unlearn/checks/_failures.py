"""Attacks and audits that failed: kept beside the observations, so that nothing reads as if it had been withstood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from lightning_unlearn.attacks import Attack
from lightning_unlearn.observation import SHARE_REACHED, Failure, Observation, Subject
from lightning_unlearn.runtime import Ended

LONGEST_MESSAGE = 2000
"""Characters of an error that are kept: some list every key of a checkpoint."""


def recorder(failures: list[Failure], subject: Subject, step: int, epoch: int) -> Callable[[Failure], None]:
    """Return what adds the failures of one look at a model to ``failures``.

    Those of an earlier look at the same model are dropped: this one replaces it. The control is looked at once in a run.
    """
    replaced = [f for f in failures if f.subject == subject and (f.step == step or subject == "control")]
    failures[:] = [f for f in failures if f not in replaced]

    def record(failure: Failure) -> None:
        failures.append(replace(failure, subject=subject, step=step, epoch=epoch))

    return record


def refuse_blind_start(failures: Sequence[Failure], observations: Sequence[Observation]) -> None:
    """Refuse to go on if nothing at all could be measured before the first step.

    Raises:
        RuntimeError: With the errors of the audits.
    """
    if failures and not observations:
        raise RuntimeError(
            "`RecoveryCheck` should be able to measure the original. Found that every audit failed: "
            f"{'; '.join(f'{failure.who} {failure.words}' for failure in failures)}. Mend `probes` or `readout`, or give "
            "other `audits`."
        )


def about(
    name: str, attack: Attack, share: float | None = None, overlap: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What observations and failures say of an attack.

    Args:
        name: As it is called in logs and reports.
        attack: Its plain settings, and which facts it has, are told.
        share: Of the weights that it reached.
        overlap: How much of what it is judged by stands in its data: see :func:`answer_overlap`.
    """
    plain = (bool, int, float, str, type(None), list)
    settings = {k: v for k, v in vars(attack).items() if isinstance(v, plain) and k[0] != "_"}
    facts = {} if attack.facts is None else {f"facts_{k}": v for k, v in asdict(attack.facts).items()}
    config = {"attack": type(attack).__name__, **settings, **facts, **(overlap or {})}
    config |= {} if share is None else {SHARE_REACHED: share}
    return {"attack": name, "attack_config": config, "family": attack.family, "unit": attack.unit}


def failed(ended: Ended, **about_it: Any) -> Failure:
    """A failure, with the words of its error cut to a readable length."""
    message = ended.message
    short = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} ..."
    return Failure(ended.error, short, **about_it)
