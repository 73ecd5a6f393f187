"""What a reader should know before believing any number."""

import math
from collections.abc import Iterator, Sequence

from lightning_unlearn.report.analysis._bootstrap import OVER_ENTITIES, OVER_ROWS
from lightning_unlearn.report.analysis._membership import membership_limits
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.analysis._parts import EXACT_OVER_ROWS
from lightning_unlearn.report.analysis._worst import strongest
from lightning_unlearn.report.schema import Gate, Level, Recovery
from lightning_unlearn.report.schema._words import attack_words, recovery_words

FEW = 10
"""With fewer entities, intervals of skewed scores hold the truth less often than they say."""


def limits(
    index: ObservationIndex, levels: Sequence[Level], gates: Sequence[Gate], recoveries: Sequence[Recovery]
) -> list[str]:
    """The limits of a report, the gravest first.

    Args:
        index: All observations.
        levels: Of the models that were not attacked.
        gates: All gates.
        recoveries: Those of the metric the report leads with.
    """
    return [
        *_failed(index),
        *_outdone([recovery for recovery in recoveries if not recovery.is_deployment]),
        *_outdone([recovery for recovery in recoveries if recovery.is_deployment]),
        *_not_finite(recoveries),
        *_warnings(gates),
        *_partial(index),
        *membership_limits(index),
        *_of_observations(index, levels),
        "One training run: intervals cover the choice of examples, not the randomness of training.",
    ]


def _failed(index: ObservationIndex) -> Iterator[str]:
    """Failures on other models than the final one; those on it are in the verdict, and in the gates."""
    for failure in index.failures:
        if failure not in index.standing:
            yield f"On the {failure.subject} model at step {failure.step}, {failure.who} {failure.words}."


def _outdone(recoveries: Sequence[Recovery]) -> Iterator[str]:
    """Excluded numbers that are larger than the verdict: a reader should not have to search for them."""
    best = strongest(recoveries)
    # Without a verdict there is nothing to outdo; the headline gives the reasons itself.
    for recovery in recoveries:
        if best is not None and not recovery.is_verdict and recovery.shown.value > best.shown.value:
            yield (
                f"{attack_words(recovery)} brought back more than the verdict says, "
                f"{recovery_words(recovery.shown)}, but is excluded ({'; '.join(recovery.reasons)})."
            )


def _not_finite(recoveries: Sequence[Recovery]) -> Iterator[str]:
    broken = [attack_words(recovery) for recovery in recoveries if not math.isfinite(recovery.forget.value)]
    if broken:
        yield f"The metric was not a finite number under {', '.join(broken)}; that is no verdict either way."


def _warnings(gates: Sequence[Gate]) -> Iterator[str]:
    yield from (f"{gate.reason.capitalize()}." for gate in gates if gate.status == "warning" and not gate.attack)
    if uncontrolled := _warned(gates, "G4"):
        yield (
            f"No control for {uncontrolled}: no model that never knew the forget set was attacked in the same way to the "
            "end, so knowledge that an attack taught anew counts as recovered."
        )
    if unspecific := _warned(gates, "G7"):
        yield (
            f"Specificity was not measured with an interval, or on too few rows to tell, under {unspecific}: whether the "
            "model there knows the right answers, or would give any answer, is not known. Such numbers are not excluded."
        )


def _partial(index: ObservationIndex) -> Iterator[str]:
    for attack in index.attacks:
        share = index.share_reached(attack)
        if share is not None and share < 1:
            yield (
                f"The attack {attack} left {100 * (1 - share):.1f} % of the weights that it is for as they were. "
                "Embeddings, and an output head that is kept in full, are left out on purpose and are not counted."
            )


def _warned(gates: Sequence[Gate], code: str) -> str:
    return ", ".join(dict.fromkeys(gate.attack for gate in gates if (gate.code, gate.status) == (code, "warning")))


def _of_observations(index: ObservationIndex, levels: Sequence[Level]) -> Iterator[str]:
    original = [level.step for level in levels if level.model == "original"]
    if original and min(original) > 0:
        yield f"The original was observed at step {min(original)}, not before the first step."
    yield from _few_entities(levels)
    if any(o.scores and not o.entities for o in index.observations):
        yield "Some examples name no entity: they were treated as independent, so intervals may be too narrow."
    means = [o for o in index.observations if o.scores and o.interval is None]
    odd = {o.metric for o in means if not _close(o.value, o.estimate)}
    if odd:
        yield (
            f"The value of {', '.join(sorted(odd))} is not the mean of its scores; "
            "this report shows the mean of the scores."
        )


def _few_entities(levels: Sequence[Level]) -> Iterator[str]:
    over_rows = [level for level in levels if level.interval.method in (OVER_ROWS, EXACT_OVER_ROWS)]
    if over_rows:
        few = min(level.interval.entities for level in over_rows)
        where = ", ".join(dict.fromkeys(level.split for level in over_rows))
        yield (
            f"Only {few} {'entity is' if few == 1 else 'entities are'} in {where}: no interval over so few holds what it "
            "promises. Intervals there are over questions, and say nothing of other entities."
        )
    resampled = [level.interval.entities for level in levels if level.interval.method == OVER_ENTITIES]
    if min(resampled, default=FEW) < FEW:
        yield (
            f"Only {min(resampled)} entities were resampled somewhere: with fewer than {FEW}, intervals of skewed scores "
            "are too narrow, and what only a rare entity gives back may be missed."
        )


def _close(one: float, other: float) -> bool:
    # Allows for a value computed in another precision. Two NaN agree: the model was broken.
    return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))
