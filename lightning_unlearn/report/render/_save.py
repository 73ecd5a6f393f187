from pathlib import Path

from lightning_unlearn.report.render._model_card import to_model_card
from lightning_unlearn.report.render._page import to_page
from lightning_unlearn.report.render._scores import to_jsonl, to_parquet
from lightning_unlearn.report.render._sheet import to_png
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.runtime import written_whole


def save(report: RobustnessReport, folder: str | Path) -> Path:
    """Write the report's files, each whole or not at all, for their owner alone.

    ``report.html`` is the page; ``report.json`` all of it, by the schema in ``report/schema/report.schema.json``;
    ``scores.jsonl`` the scores of single examples, also as ``scores.parquet`` where pyarrow is installed;
    ``model_card.md`` a section for a model's page; ``curves.png`` all plots.

    Args:
        report: What to write.
        folder: Made if it is missing; a report that is there already is replaced.

    Returns:
        The page.

    Raises:
        OSError: If the folder cannot be written.
    """
    page = Path(folder).expanduser() / "report.html"
    # The JSON first: everything else can be drawn again from it. Half a character, as JSON files of others may hold, has no
    # UTF-8; JSON has an escape for it.
    _write(page.with_name("report.json"), report.to_json().encode(errors="backslashreplace"))
    _write(page.with_name("scores.jsonl"), to_jsonl(report.observations))
    if (table := to_parquet(report.observations)) is not None:
        _write(page.with_name("scores.parquet"), table)
    _write(page.with_name("model_card.md"), to_model_card(report).encode(errors="backslashreplace"))
    _write(page.with_name("curves.png"), to_png(report))
    _write(page, to_page(report).encode())
    return page


def _write(path: Path, content: bytes) -> None:
    try:
        with written_whole(path) as new:
            new.write_bytes(content)
    except OSError as error:
        raise OSError(
            f"The report's folder should be writable. Found `{error.strerror}` when writing `{path}`. "
            "The report is still in memory: save it elsewhere with `save(report, folder)`."
        ) from error
