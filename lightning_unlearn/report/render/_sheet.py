"""All plots on one light sheet, ``curves.png``."""

from matplotlib.figure import Figure

from lightning_unlearn.report.render._draw import columns_for, literal
from lightning_unlearn.report.render._palette import LIGHT
from lightning_unlearn.report.render._panel import SIZE, report_style, to_bytes
from lightning_unlearn.report.render._panels import panels
from lightning_unlearn.report.schema import RobustnessReport


def to_png(report: RobustnessReport) -> bytes:
    """All panels, two in a row."""
    drawn = panels(report)
    rows = max(1, -(-len(drawn) // 2))
    with report_style():
        figure = Figure(figsize=(2 * SIZE[0], rows * (SIZE[1] + 0.3)), facecolor=LIGHT["paper"])
        for axes, panel in zip(figure.subplots(rows, 2, squeeze=False).flat, drawn, strict=False):
            panel.draw(axes)
            labels = axes.get_legend_handles_labels()[1]
            # the legend stands between the axes and the title
            axes.set_title(literal(panel.title), pad=8 + 13.5 * -(-len(labels) // columns_for(labels)))
        for axes in figure.axes[len(drawn) :]:
            axes.set_axis_off()
        return to_bytes(figure, format="png")
