"""Which of many attacks brought back anything at all."""

from collections.abc import Sequence
from dataclasses import replace

from lightning_unlearn.report.analysis._tests import false_discovery_rates
from lightning_unlearn.report.schema import Recovery


def with_q_values(recoveries: Sequence[Recovery]) -> list[Recovery]:
    """Each recovery with the q-value of its attack, over all attacks of its metric; None where there is no p-value."""
    found: dict[tuple[str, str], float] = {}
    for metric in dict.fromkeys(recovery.metric for recovery in recoveries):
        tested = [r for r in recoveries if r.metric == metric and r.p_value is not None]
        families = {attack: [r.p_value or 0.0 for r in tested if r.attack == attack] for attack in _attacks(tested)}
        q_values = false_discovery_rates(list(families.values()))
        found |= {(metric, attack): q for attack, q in zip(families, q_values, strict=True)}
    return [replace(r, q_value=found.get((r.metric, r.attack))) for r in recoveries]


def _attacks(recoveries: Sequence[Recovery]) -> list[str]:
    return list(dict.fromkeys(recovery.attack for recovery in recoveries))
