from pathlib import Path

from lightning_unlearn.report.render._files import write_atomically
from lightning_unlearn.report.render._page import to_page
from lightning_unlearn.report.render._sheet import to_png
from lightning_unlearn.report.schema import RobustnessReport


def save(report: RobustnessReport, folder: str | Path) -> Path:
    """Write ``report.json``, ``curves.png`` and ``report.html``, each either whole or not at all.

    Args:
        report: What to write.
        folder: Made if it is missing; a report that is there already is replaced.

    Returns:
        The page.

    Raises:
        OSError: If the folder cannot be written.
    """
    page = Path(folder) / "report.html"
    # The JSON first: everything else can be drawn again from it. Half a character, as JSON files of others may hold, has no
    # UTF-8; JSON has an escape for it.
    write_atomically(page.with_name("report.json"), report.to_json().encode(errors="backslashreplace"))
    write_atomically(page.with_name("curves.png"), to_png(report))
    write_atomically(page, to_page(report).encode())
    return page
