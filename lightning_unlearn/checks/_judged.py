"""Observations of what an attacker did not have: he trained on some facts, and is judged by the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightning_unlearn.attacks import Attack
from lightning_unlearn.data import Probe
from lightning_unlearn.observation import Observation


def judged(observations: Iterable[Observation], attack: Attack, probes: Mapping[str, Probe]) -> list[Observation]:
    """The observations, without the examples that ``attack`` was given.

    On the forget split, and on any other whose entities the attacker has, where facts are split by entity. An observation
    there that is no mean of scores, such as an AUC, is of all examples, and left out.

    Raises:
        ValueError: If scores cannot be told to which example they belong.
    """
    if attack.facts is None:
        return list(observations)
    numbers = {"forget": attack.facts.judged_examples(probes["forget"])}
    for split, probe in probes.items():
        known = attack.facts.known(probes["forget"], probe)
        if split != "forget" and known & set(probe.entities):
            numbers[split] = frozenset(n for n, entity in enumerate(probe.entities) if entity not in known)
    found = []
    for o in observations:
        if o.split not in numbers:
            found.append(o)
        elif o.scores and o.interval is None:
            _refuse_unnumbered(o, probes[o.split])
            found.append(o.at(numbers[o.split]))
    return found


def _refuse_unnumbered(observation: Observation, probe: Probe) -> None:
    if not observation.examples and len(observation.scores) != probe.size:
        raise ValueError(
            f"`{observation.metric}` should have a score for each of the {probe.size} examples of `{observation.split}`, so "
            f"that those the attacker had can be left out. Found {len(observation.scores)}. Leave out examples without a "
            "supervised label, or give the attack no `facts`."
        )
