from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.requests._folder import SequenceFolder
from lightning_unlearn.requests._measured import Known
from lightning_unlearn.requests._sequence_curves import sequence_curves
from lightning_unlearn.runtime import written_whole


def write_sequence_report(folder: str | Path, control: Known | None = None) -> Path:
    """Write the report of a sequence of requests: ``sequence.html``, and the same as ``.md``, ``.json`` and ``.png``.

    Args:
        folder: That of a :class:`RequestSequence`.
        control: What a model that never knew has of each request: see :meth:`RequestSequence.known`.

    Returns:
        The path of the page, ``sequence.html``.

    Raises:
        ValueError: If the ledger is not as it was written.
    """
    # Here, since plots take longer than all of this package.
    from lightning_unlearn.requests._sequence_page import to_page
    from lightning_unlearn.requests._sequence_panels import drawn

    files = SequenceFolder(folder)
    entries = files.checked_entries()
    found = sequence_curves(entries, files.costs(), control)
    head = entries[-1].hash if entries else None
    for ending, content in (
        ("json", (json.dumps({**found, "head": head}, indent=1) + "\n").encode()),
        ("png", drawn(found)),
        ("md", to_markdown(found).encode()),
        ("html", to_page(found, head).encode()),
    ):
        with written_whole(files.path / f"sequence.{ending}") as new:
            new.write_bytes(content)
    return files.path / "sequence.html"


def to_markdown(found: Mapping[str, Any]) -> str:
    """Sentences, the picture and two tables."""
    from lightning_unlearn.report.comparison._show import as_markdown
    from lightning_unlearn.requests._sequence_sheets import sentences, sheets_of

    picture = ["![Curves over requests](sequence.png)"] if found["requests"] else []
    parts = ["# A sequence of requests", "\n".join([*sentences(found), *picture]), *map(as_markdown, sheets_of(found))]
    return "\n\n".join(parts) + "\n"
