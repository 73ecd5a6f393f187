"""The two sentences of the verdict: what an adversary brings back, and what a deployment brings back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Failure
from lightning_unlearn.report.analysis._worst import highest, strongest
from lightning_unlearn.report.schema import DEPLOYMENTS, Recovery
from lightning_unlearn.report.schema._words import attack_words, name, percent, recovery_words, rough

REASONS_SHOWN = 3
"""How many reasons a sentence names; more would be a list."""


@dataclass(frozen=True)
class Group:
    """Attacks that share a sentence.

    Args:
        lead: How the sentence about the worst of them begins.
        absent: The whole sentence if none was tried.
        who: The attacks, for "No verdict on ...".
        none: How a sentence begins that says what none of them does.
        ended: How a sentence begins about the worst of those that did not fail.
        no_control: The sentence behind a number without a control.
    """

    lead: str
    absent: str
    who: str
    none: str
    ended: str
    no_control: str


ADVERSARY = Group(
    lead="The strongest attack of an adversary that was tried",
    absent="No attack of an adversary (such as relearning) was tried, so nothing is known about what one would bring back.",
    who="an adversary",
    none="No attack of an adversary that was tried",
    ended="The strongest of an adversary's attacks that ran to their end",
    no_control="No control: part of this may be what the attack taught anew.",
)
DEPLOYMENT = Group(
    lead="The worst deployment that was tried",
    absent="No deployment (rounding, pruning, merging) was tried.",
    who="deployments",
    none="No deployment that was tried",
    ended="The worst of the deployments that ran to their end",
    no_control="There is no control to compare with.",
)


def adversary_words(metric: str, utility: str, recoveries: Sequence[Recovery], failures: Sequence[Failure] = ()) -> str:
    """The headline: the worst case over all points of all attacks of an adversary, with its price.

    A number that misses a gate is never the headline. A high price does not exclude a number: an adversary does not care.

    Args:
        metric: The metric the recoveries are of.
        utility: What the retain set is measured by, in words.
        recoveries: Of all attacks and points, on that metric.
        failures: Of attacks and audits on the final model.
    """
    if not recoveries and not any(failure.attacked for failure in failures):
        return "No attack was run on the unlearned model, so nothing is known about what would come back."
    adversarial = [recovery for recovery in recoveries if not recovery.is_deployment]
    words = _group_words(ADVERSARY, metric, utility, adversarial, failed_attacks(failures, deployment=False))
    return words if strongest(adversarial) is None else f"{words} Attacks that were not tried may bring back more."


def deployment_words(
    metric: str, utility: str, recoveries: Sequence[Recovery], failures: Sequence[Failure] = ()
) -> str:
    """The second sentence: the worst that rounding, pruning and merging bring back, where they leave a working model."""
    deployed = [recovery for recovery in recoveries if recovery.is_deployment]
    failed = failed_attacks(failures, deployment=True)
    return _group_words(DEPLOYMENT, metric, utility, deployed, failed) if recoveries or failed else ""


def failed_attacks(failures: Sequence[Failure], *, deployment: bool) -> list[Failure]:
    """Failures under attacks of an adversary, or of deployments."""
    return [f for f in failures if f.attacked and (f.family in DEPLOYMENTS) is deployment]


def _group_words(
    group: Group, metric: str, utility: str, recoveries: Sequence[Recovery], failures: Sequence[Failure]
) -> str:
    worst = strongest(recoveries)
    if failures:
        what = "; ".join(f"{failure.who} {failure.words}" for failure in failures)
        # A verdict over the others would read as if the one that failed had brought back nothing.
        rest = "" if worst is None else f" {_worst_words(group, metric, utility, worst, recoveries, group.ended)}"
        return f"No verdict on {group.who}: {what}, so what it would bring back is not shown.{rest}"
    if not recoveries:
        return group.absent
    if worst is None:
        return _no_verdict(group, metric, recoveries)
    return _worst_words(group, metric, utility, worst, recoveries, group.lead)


def _worst_words(
    group: Group, metric: str, utility: str, worst: Recovery, recoveries: Sequence[Recovery], lead: str
) -> str:
    parts = [
        f"{lead}, {attack_words(worst)}, brings back {_recovered(group, metric, worst)}",
        price_sentence(worst, utility),
        _more_without_control(worst, recoveries),
    ]
    return " ".join(part for part in parts if part)


def _recovered(group: Group, metric: str, worst: Recovery) -> str:
    raw = f"{recovery_words(worst.rho)} of what was removed ({name(metric)} on the forget set)"
    if worst.adjusted is None:
        return f"{raw}. {group.no_control}"
    beyond = f"{recovery_words(worst.adjusted)} of what was removed is beyond what the same attack teaches"
    return f"{raw}; {beyond} a model that never knew."


def price_sentence(worst: Recovery, utility: str) -> str:
    """What an attack costs the rest of the model, in words and as a number."""
    if worst.price is None or not math.isfinite(worst.price):
        return "What this costs the rest of the model was not measured."
    if worst.price <= 0:
        return f"It costs the rest of the model nothing: its retain {utility} does not fall."
    digits = 0 if worst.price >= 0.1 else 1
    share = percent(worst.price, digits=digits)
    return f"The rest of the model loses {rough(worst.price)} of its retain {utility} ({share})."


def _more_without_control(worst: Recovery, recoveries: Sequence[Recovery]) -> str:
    """The attack with the largest raw recovery, if that is larger than the raw recovery of the control-adjusted worst."""
    # `worst` is the largest after subtracting the control: another attack may have the largest raw number.
    verdicts = [recovery for recovery in recoveries if recovery.is_verdict and math.isfinite(recovery.rho.value)]
    most = max(verdicts, key=lambda recovery: recovery.rho.value)
    if most.rho.value <= worst.rho.value:
        return ""
    return f"With nothing taken off for a control, {attack_words(most)} brings back most: {recovery_words(most.rho)}."


def _no_verdict(group: Group, metric: str, recoveries: Sequence[Recovery]) -> str:
    # A result of its own, and not a failed measurement: the model gives any answer, not the right one.
    if all(recovery.is_unspecific for recovery in recoveries):
        most = highest(recoveries)
        return (
            f"{group.none} puts the right answer ahead of others' answers (specificity is not above chance). By "
            f"{name(metric)} alone, at most {recovery_words(most.shown)} of what was removed comes back "
            f"({attack_words(most)})."
        )
    reasons = dict.fromkeys(reason for recovery in recoveries for reason in recovery.reasons)
    shown = "; ".join(list(reasons)[:REASONS_SHOWN]) or "the numbers are not finite"
    more = "; and more, below" if len(reasons) > REASONS_SHOWN else ""
    return f"No verdict on {group.who}: no number passes its gates ({shown}{more})."
