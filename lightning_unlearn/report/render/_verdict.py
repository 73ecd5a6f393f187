"""The verdict in one word and one sentence, for a reader who has ten seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_unlearn.observation import Failure
from lightning_unlearn.report.analysis._headline import LUCK, failed_attacks
from lightning_unlearn.report.render._leading import Leading, leading, recoveries_by, standing_failures
from lightning_unlearn.report.schema import Interval, RobustnessReport
from lightning_unlearn.report.schema._words import attack_words, recovery_words

LITTLE, MUCH = 0.05, 0.2
"""Shares of what was removed: at most the first is little, more than the second is much. Between them, some came back."""


_NOT_ATTACKED = "No attack of an adversary was tried, so nobody knows what would come back."


@dataclass(frozen=True)
class Verdict:
    """What a reader should take away.

    Args:
        tone: Its colour: ``held``, ``partly``, ``back`` or ``unknown``.
        word: The same in words.
        sentence: Why.
    """

    tone: str
    word: str
    sentence: str

    @property
    def sign(self) -> str:
        """The same as a sign, so that nobody needs the colour."""
        return {"held": "✓", "partly": "~", "back": "✗", "unknown": "?"}[self.tone]


def verdict(report: RobustnessReport) -> Verdict:
    """The worst that an adversary or a deployment brought back, if nothing stands in the way of saying so.

    As judged by entities that did not choose the attack, where there are enough of them.
    """
    if (obstacle := _obstacle(report)) is not None:
        return obstacle
    kinds: tuple[Literal["worst", "worst_deployment"], ...] = ("worst", "worst_deployment")
    worst = [found for kind in kinds if (found := leading(report, kind)) is not None]
    strongest = max(worst, key=lambda found: found.number.value, default=None)
    tried, unspecific = _by_adversaries(report)
    if strongest is not None and _tone(strongest.number) in ("partly", "back"):
        return _returned(strongest)
    if not tried:
        return Verdict("unknown", "Not attacked", _NOT_ATTACKED)
    if failed := failed_attacks(standing_failures(report), deployment=True):
        return _incomplete(failed)  # what came back else is known; that nothing did is not
    if strongest is not None and strongest.largest.is_deployment and not unspecific:
        # Nobody's attack passed its gates: that a deployment brings back little says nothing of them.
        return _without_numbers() if report.summary["worst"] is None else _stayed(strongest)
    if strongest is not None and _tone(strongest.number) == "held":
        return _stayed(strongest)
    return _never_right() if unspecific else _without_numbers()


def _obstacle(report: RobustnessReport) -> Verdict | None:
    metric = report.summary["headline_metric"]
    gates = {gate.code: gate for gate in report.gates if gate.metric in ("", metric) and not gate.attack}
    if report.run.get("interrupted"):
        return Verdict("unknown", "Incomplete", "The run was ended before its time, so this is not a result.")
    if failed := failed_attacks(standing_failures(report), deployment=False):
        return _incomplete(failed)
    if "G1" not in gates or gates["G1"].blocks:
        return Verdict("unknown", "Nothing to judge", "It was not shown that anything was removed.")
    if gates["G2"].status == "fail":
        return Verdict("back", "Broken", "The model lost too much of what it should have kept to be of use.")
    return None


def _incomplete(failed: Sequence[Failure]) -> Verdict:
    names = ", ".join(dict.fromkeys(failure.attack for failure in failed))
    return Verdict("unknown", "Incomplete", f"{names} failed, and what it would have brought back is not known.")


def _by_adversaries(report: RobustnessReport) -> tuple[bool, bool]:
    """Whether any attack of an adversary was tried, and whether none of them puts the right answer ahead."""
    tried = recoveries_by(report, deployment=False)
    return bool(tried), bool(tried) and all(recovery.is_unspecific for recovery in tried)


def _tone(shown: Interval) -> str:
    if shown.unbounded:
        return "unknown"
    low = shown.value if shown.low is None else shown.low
    high = shown.value if shown.high is None else shown.high
    if low > MUCH:
        return "back"
    return "held" if high <= LITTLE else "partly"


def _returned(worst: Leading) -> Verdict:
    tone = _tone(worst.number)
    much = tone == "back"
    sentence = f"{'Much' if much else 'Some'} of what was removed can be brought back: {_how_much(worst)}."
    return Verdict(tone, "It came back" if much else "Some came back", sentence + _larger(worst))


def _stayed(worst: Leading) -> Verdict:
    sentence = f"Of all that was tried, nothing brought back more than {_how_much(worst)}."
    if worst.is_of_two:
        sentence = f"The worst of all that was tried brought back {_how_much(worst)}."
    # Or a reader would think that nobody can make the model say it again.
    again = " Whoever has the data can teach it anew, as to any model." if worst.largest.rho.value > MUCH else ""
    return Verdict("held", "It stayed forgotten", sentence + _larger(worst) + again)


def _never_right() -> Verdict:
    return Verdict("held", "It stayed forgotten", "No attack that was tried puts the right answer ahead of wrong ones.")


def _without_numbers() -> Verdict:
    return Verdict(
        "unknown", "No verdict", "No attack gave a number that passes all conditions; the reasons are below."
    )


def _how_much(worst: Leading) -> str:
    taken_off = "" if worst.largest.adjusted is None else " beyond what the attack teaches a model that never knew"
    judged = ", each judged by entities that did not choose it" if worst.is_of_two else ""
    return f"{recovery_words(worst.number)}{taken_off}, by {' and '.join(map(attack_words, worst.choices))}{judged}"


def _larger(worst: Leading) -> str:
    """The largest single number, where it would have given another verdict."""
    largest = worst.largest
    if _tone(largest.shown) == _tone(worst.number):
        return ""
    return f" On all entities {attack_words(largest)} brings back most, {recovery_words(largest.shown)}: {LUCK}."
