"""The two sentences of the verdict: what an adversary brings back, and what a deployment brings back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Failure
from lightning_unlearn.report.analysis._fair_worst import FairWorst
from lightning_unlearn.report.analysis._worst import highest, strongest
from lightning_unlearn.report.schema import DEPLOYMENTS, Recovery
from lightning_unlearn.report.schema._words import attack_words, name, percent, recovery_words, rough

REASONS_SHOWN = 3
"""How many reasons a sentence names; more would be a list."""

LUCK = "the largest of several noisy numbers, which errs upwards"
"""What is wrong with a worst case that was chosen by the entities it is about."""


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


def adversary_words(
    metric: str,
    utility: str,
    recoveries: Sequence[Recovery],
    failures: Sequence[Failure] = (),
    fair: FairWorst | None = None,
) -> str:
    """The headline: the worst case over all points of all attacks of an adversary, with its price.

    A number that misses a gate is never the headline. A high price does not exclude a number: an adversary does not care.

    Args:
        metric: The metric the recoveries are of.
        utility: What the retain set is measured by, in words.
        recoveries: Of all attacks and points, on that metric.
        failures: Of attacks and audits on the final model.
        fair: The worst case judged by other entities than those that chose it, if there are enough.
    """
    if not recoveries and not any(failure.attacked for failure in failures):
        return "No attack was run on the unlearned model, so nothing is known about what would come back."
    adversarial = [recovery for recovery in recoveries if not recovery.is_deployment]
    words = _group_words(ADVERSARY, metric, utility, adversarial, failed_attacks(failures, deployment=False), fair)
    return words if strongest(adversarial) is None else f"{words} Attacks that were not tried may bring back more."


def deployment_words(
    metric: str,
    utility: str,
    recoveries: Sequence[Recovery],
    failures: Sequence[Failure] = (),
    fair: FairWorst | None = None,
) -> str:
    """The second sentence: the worst that rounding, pruning and merging bring back, where they leave a working model."""
    deployed = [recovery for recovery in recoveries if recovery.is_deployment]
    failed = failed_attacks(failures, deployment=True)
    return _group_words(DEPLOYMENT, metric, utility, deployed, failed, fair) if recoveries or failed else ""


def failed_attacks(failures: Sequence[Failure], *, deployment: bool) -> list[Failure]:
    """Failures under attacks of an adversary, or of deployments."""
    return [f for f in failures if f.attacked and (f.family in DEPLOYMENTS) is deployment]


def _group_words(
    group: Group,
    metric: str,
    utility: str,
    recoveries: Sequence[Recovery],
    failures: Sequence[Failure],
    fair: FairWorst | None,
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
    if fair is not None and not fair.is_one:
        return _fair_words(group, metric, utility, worst, fair)
    words = _worst_words(group, metric, utility, worst, recoveries, group.lead)
    return f"{words} {_chosen_words(recoveries, fair)}".strip()


def _fair_words(group: Group, metric: str, utility: str, worst: Recovery, fair: FairWorst) -> str:
    """Where the two halves of the entities chose different attacks, the number is of both."""
    one, other = map(attack_words, fair.choices)
    beyond = f". {group.no_control}"
    if worst.adjusted is not None:
        beyond = " and is beyond what the same attack teaches a model that never knew."
    parts = [
        f"{group.lead} brings back {recovery_words(fair.recovery)} of what was removed",
        f"({name(metric)} on the forget set){beyond}",
        f"One half of the entities chose {one}, the other half {other}; each was judged by the half that did not choose it.",
        f"On all entities {attack_words(worst)} brings back most, {recovery_words(worst.shown)}: {LUCK}.",
        price_sentence(worst, utility),
    ]
    return " ".join(parts)


def _chosen_words(recoveries: Sequence[Recovery], fair: FairWorst | None) -> str:
    if sum(recovery.is_verdict for recovery in recoveries) < 2:
        return ""
    if fair is not None:
        return "The attack was chosen by one half of the entities and judged by the other, both ways round."
    return f"There are too few entities for one half to choose and the other to judge: this is {LUCK}."


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
        return "What that attack costs the rest of the model was not measured."
    if worst.price <= 0:
        return f"That attack costs the rest of the model nothing: its retain {utility} does not fall."
    digits = 0 if worst.price >= 0.1 else 1
    share = percent(worst.price, digits=digits)
    return f"That attack costs the rest of the model {rough(worst.price)} of its retain {utility} ({share})."


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
