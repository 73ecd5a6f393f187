"""A plot whose labels need more than the whole figure is drawn all the same, and larger."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from matplotlib.image import imread

from lightning_unlearn.report.render._panel import report_style, to_bytes


def _drawn(label: str) -> tuple[int, ...]:
    with report_style():
        figure = Figure(figsize=(2, 2), dpi=50, layout="constrained")
        figure.subplots().plot([0, 1], label=label)
        figure.legend(loc="outside right upper")
        return tuple(imread(io.BytesIO(to_bytes(figure, format="png", dpi=50))).shape)


def test_it_grows_around_its_labels() -> None:
    height, width, _ = _drawn("a")
    assert (height, width) == (100, 100)
    assert _drawn("a long label " * 20)[1] > 300
