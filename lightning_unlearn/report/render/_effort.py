"""Knowledge against effort: the unlearned model under attack, beside the control under the same attack."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._bootstrap import Bootstrap
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.render._draw import LineStyle, label_axes, literal, point_axis, style_of
from lightning_unlearn.report.schema import Interval, RobustnessReport

Points = list[tuple[float, Interval]]
"""Levels of one model along an attack."""
DRAWS = 400
"""Enough for a band that is drawn; tables and JSON have intervals of more draws."""


@dataclass(frozen=True)
class Effort:
    """One attack, along its points.

    Args:
        unit: What a point counts.
        unlearned: Levels of the unlearned model.
        control: Those of the control; empty if it was not attacked.
        original: Level of the original, without an attack.
    """

    unit: str
    unlearned: Points
    control: Points
    original: float | None

    @property
    def has_curve(self) -> bool:
        """Whether there are several points, not counting the model before the attack."""
        return sum(point != 0 for point, _ in self.unlearned) > 1


def efforts(report: RobustnessReport) -> dict[str, Effort]:
    """Attacks with several points, on the forget set and the metric the report leads with."""
    metric = report.summary["headline_metric"]
    index = ObservationIndex(report.observations)
    original = index.find(metric, "forget", subject="original")
    found = {attack: _effort(index, metric, attack, original) for attack in index.attacks}
    return {attack: effort for attack, effort in found.items() if effort.has_curve and effort.unit != "bits"}


def _effort(index: ObservationIndex, metric: str, attack: str, original: Observation | None) -> Effort:
    def along(subject: Any) -> Points:
        start = index.find(metric, "forget", subject=subject)
        looks = [
            index.find(metric, "forget", subject=subject, attack=attack, point=point)
            for point in index.points(attack, metric)
        ]
        levels = [(o.point, Bootstrap(DRAWS).level(o)) for o in looks if o is not None]
        # Step 0 of an attack is the model that was not attacked.
        steps = bool(levels) and looks[0] is not None and looks[0].unit == "step" and levels[0][0] > 0
        first = [(0.0, Bootstrap(DRAWS).level(start))] if steps and start is not None else []
        return [(point, level) for point, level in (*first, *levels) if math.isfinite(level.value)]

    unit = next((o.unit for o in index.observations if o.attack == attack), "")
    level = None if original is None else original.estimate
    return Effort(unit, along(index.attacked_subject), along("control"), level)


def draw_effort(
    axes: Any,
    *,
    attacks: Mapping[str, Effort],
    styles: Mapping[str, LineStyle],
    label: str,
    bounds: tuple[float, float] | None,
) -> None:
    """Solid: the unlearned model. Dashed: the control. Dotted: what the original knew."""
    for attack, effort in attacks.items():
        style = styles[attack]
        _levels(axes, effort.unlearned, style, literal(attack))
        beside = {**style, "linestyle": "--", "markerfacecolor": "none", "linewidth": 1.1}
        _levels(axes, effort.control, beside, literal(f"{attack}: a model that never knew"))
    original = next(iter(attacks.values())).original
    if original is not None and math.isfinite(original):
        axes.axhline(original, color=style_of(-1)["color"], linestyle=":", linewidth=1.2, label="original")
    if bounds:
        margin = 0.04 * (bounds[1] - bounds[0])
        axes.set_ylim(bounds[0] - margin, bounds[1] + margin)
    first = next(iter(attacks.values()))
    point_axis(axes, [point for effort in attacks.values() for point, _ in effort.unlearned], first.unit)
    label_axes(axes, x="step of the attack" if first.unit == "step" else first.unit or "strength", y=label)


def _levels(axes: Any, points: Points, style: dict[str, Any], label: str) -> None:
    if not points:
        return
    axes.plot([point for point, _ in points], [level.value for _, level in points], label=label, **style)
    band = [(point, level.low, level.high) for point, level in points if level.low is not None]
    if band:
        axes.fill_between(*zip(*band, strict=True), color=style["color"], alpha=0.15, lw=0)
