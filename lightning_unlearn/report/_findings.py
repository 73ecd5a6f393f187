"""What the numbers come to: the verdict, and what a reader should know before believing it."""

import math
from collections.abc import Iterator, Sequence

from lightning_unlearn.observation import Observation
from lightning_unlearn.report._schema import Gate, Level, Recovery
from lightning_unlearn.report._words import name, point_words, recovery_words

FEW = 10
"""With fewer entities the bootstrap is known to be too sure of itself."""


def verdict_words(metric: str, recoveries: Sequence[Recovery]) -> str:
    """The one sentence a reader takes home; never a number that misses a gate.

    Args:
        metric: The metric to lead with.
        recoveries: Of all attacks and points.
    """
    told = [recovery for recovery in recoveries if recovery.metric == metric]
    worst = strongest(told)
    if not told:
        return "No attack was run on the unlearned model, so nothing is known about what would come back."
    if worst is None:
        reasons = dict.fromkeys(reason for recovery in told for reason in recovery.reasons)
        return "No verdict: no number passes its gates (" + "; ".join(reasons) + ")."
    beyond = "" if worst.adjusted is None else ", beyond what it taught a control"
    return (
        f"The strongest attack tried, {worst.attack} at {point_words(worst)}, brought back "
        f"{recovery_words(worst.shown)} of what was removed ({name(metric)} on the forget set{beyond}). "
        "Attacks that were not tried may bring back more."
    )


def strongest(recoveries: Sequence[Recovery]) -> Recovery | None:
    """The verdict that brought back most, if there is any verdict."""
    verdicts = [recovery for recovery in recoveries if recovery.is_verdict]
    return max(verdicts, key=lambda recovery: recovery.shown.value, default=None)


def outdone(recoveries: Sequence[Recovery]) -> Iterator[str]:
    """Grey numbers that are larger than the verdict they stand behind: a reader should not have to find them.

    Args:
        recoveries: Of one metric.
    """
    best = strongest(recoveries)
    for recovery in recoveries:
        if best is not None and not recovery.is_verdict and recovery.shown.value > best.shown.value:
            yield (
                f"{recovery.attack} at {point_words(recovery)} brought back more than the verdict says, "
                f"{recovery_words(recovery.shown)}, but is grey ({'; '.join(recovery.reasons)})."
            )


def limits(
    observations: Sequence[Observation],
    levels: Sequence[Level],
    gates: Sequence[Gate],
    recoveries: Sequence[Recovery],
) -> list[str]:
    """What a reader should know before believing any number.

    Args:
        observations: All looks.
        levels: Of the models that were not attacked.
        gates: All gates.
        recoveries: Those of the metric the report leads with.
    """
    prediction = list(outdone(recoveries))
    prediction += [f"{gate.reason.capitalize()}." for gate in gates if gate.status == "warning" and not gate.attack]
    uncontrolled = [gate.attack for gate in gates if gate.code == "G4" and gate.status == "warning"]
    if uncontrolled:
        prediction.append(
            f"No control for {', '.join(uncontrolled)}: no model that never saw the forget set was attacked in the same "
            "way, so knowledge that an attack taught anew counts as recovered."
        )
    first = min((observation.step for observation in observations if not observation.attacked), default=0)
    if first > 0:
        prediction.append(f"The first look at the model was at step {first}; that model is taken for the original.")
    few = min((level.interval.entities for level in levels if level.interval.entities), default=FEW)
    if few < FEW:
        prediction.append(
            f"Only {few} entities were resampled somewhere: with fewer than {FEW}, intervals are too narrow."
        )
    if any(observation.scores and not observation.entities for observation in observations):
        prediction.append(
            "Some examples name no entity: they were treated as independent, so intervals may be too narrow."
        )
    odd = {
        observation.metric
        for observation in observations
        if observation.scores and not _close(observation.value, observation.estimate)
    }
    if odd:
        prediction.append(
            f"The value of {', '.join(sorted(odd))} is not the mean of its scores; this report shows the mean of the scores."
        )
    prediction.append("One training run: intervals cover the choice of examples, not the randomness of training.")
    return prediction


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))
