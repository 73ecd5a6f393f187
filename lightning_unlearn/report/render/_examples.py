"""The worst examples side by side: what the original, the unlearned and the attacked model made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Observation, strength
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.render._leading import worst_place
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name, number

SHOWN = 5
LONGEST = 600
"""Characters of what a model said that are shown; ``scores.jsonl`` has all of it."""


@dataclass(frozen=True)
class Said:
    """One model on one example.

    Args:
        who: The model.
        score: Its score, in words.
        text: What it said; empty if nothing was kept.
    """

    who: str
    score: str
    text: str = ""


@dataclass(frozen=True)
class Example:
    """One example.

    Args:
        title: Its number, and what it is about.
        said: Of each model.
    """

    title: str
    said: list[Said]


@dataclass(frozen=True)
class WorstExamples:
    """The examples of the forget set that came back most.

    Args:
        metric: What they are ordered by, in words.
        most: ``"most"``, or ``"least"`` of a metric of which less means that more is known.
        attack: The attack, in words; empty if there is none.
        examples: The worst first.
    """

    metric: str
    most: str
    attack: str
    examples: list[Example]

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return [said.who for example in self.examples[:1] for said in example.said]

    @property
    def has_words(self) -> bool:
        """Whether anything is shown that a model said."""
        return any(said.text for example in self.examples for said in example.said)


def worst_examples(report: RobustnessReport) -> WorstExamples | None:
    """The worst of the strongest attack; of the unlearned model if there is none; None without scores of examples.

    A metric of which the words were kept is preferred to the one that the report leads with.
    """
    attacked = _most_telling(report)
    if attacked is None:
        return None
    index = ObservationIndex(report.observations)
    of_models = [
        (who, _of(index, attacked, who)) for who in ("original", "unlearned") if attacked.attacked or who == "original"
    ]
    models = [(who, o) for who, o in of_models if o is not None]
    last = "under attack" if attacked.attacked else "unlearned"
    looks = [*models, (last, attacked)]
    how = f"{attacked.attack} at {strength(attacked.point, attacked.unit)}" if attacked.attacked else ""
    examples = [_example(attacked, number_, looks) for number_ in _worst_numbers(attacked)]
    return WorstExamples(name(attacked.metric), "most" if attacked.higher_means_known else "least", how, examples)


def _most_telling(report: RobustnessReport) -> Observation | None:
    subject = ObservationIndex(report.observations).attacked_subject
    found = [
        o for o in report.observations if o.split == "forget" and o.subject == subject and o.scores and not o.layer
    ]
    worst = worst_place(report, report.summary["worst"] or report.summary["worst_deployment"])

    def telling(o: Observation) -> tuple[bool, bool, bool, float]:
        is_worst = worst is not None and (o.attack, o.point) == (worst.attack, worst.point)
        known = o.estimate if o.higher_means_known else -o.estimate
        return bool(o.texts), is_worst, o.metric == report.summary["headline_metric"], known

    return max(found, key=telling, default=None)


def _of(index: ObservationIndex, attacked: Observation, who: str) -> Observation | None:
    subject = index.attacked_subject if who == "unlearned" else "original"
    return index.find(attacked.metric, "forget", subject=subject)


def _worst_numbers(attacked: Observation) -> list[int]:
    sign = -1 if attacked.higher_means_known else 1
    ordered = sorted(zip(attacked.scores, attacked.numbers, strict=True), key=lambda each: sign * each[0])
    return [number_ for _, number_ in ordered[:SHOWN]]


def _example(attacked: Observation, number_: int, looks: Sequence[tuple[str, Observation]]) -> Example:
    place = attacked.numbers.index(number_)
    about = f": {attacked.entities[place]}" if attacked.entities else ""
    return Example(f"Example {number_}{about}", [_said(who, o, number_) for who, o in looks])


def _said(who: str, o: Observation, number_: int) -> Said:
    if number_ not in o.numbers or not o.scores:  # a half of the examples may be the attacker's
        return Said(who, "-")
    place = o.numbers.index(number_)
    text = o.texts[place] if o.texts else ""
    return Said(who, number(o.scores[place]), text if len(text) <= LONGEST else f"{text[:LONGEST]} …")
