"""The page of a model on the hub: ``README.md``, with metadata on top."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.report import RobustnessReport, to_model_card

_TAGS = ("unlearning", "lightning-unlearn")


def write_card(
    path: str | Path,
    report: RobustnessReport,
    *,
    title: str,
    metadata: Mapping[str, Any],
    failed: Iterable[str] = (),
) -> None:
    """Write the card of a model, or bring the one that is there up to date.

    Metadata and text of a card that is there are kept, but for what ``metadata`` names, and the section of the report, which
    takes the place of an older one.

    Args:
        path: Of ``README.md``.
        report: What its section tells.
        title: Of a new card.
        metadata: Such as ``license``, ``base_model``, ``language``, ``library_name``; what is ``None`` is left out.
        failed: Sentences on what stands against publishing the model; they are said in the section.

    Raises:
        ValueError: If the metadata of a card that is there cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_unlearn.report import assess
        >>> with TemporaryDirectory() as folder:
        ...     write_card(f"{folder}/README.md", assess([]), title="Small", metadata={"license": "mit"})
        ...     Path(f"{folder}/README.md").read_text().splitlines()[:6]
        ['---', 'license: mit', 'tags:', '- unlearning', '- lightning-unlearn', '---']
    """
    from huggingface_hub import ModelCard

    path = Path(path)
    section = to_model_card(report) + _failed(failed)
    if path.is_file():
        card = ModelCard.load(path)
        card.text = _replaced(card.text, section)
    else:
        card = ModelCard(f"---\n{{}}\n---\n\n# {title}\n\n{section}")
    for name, value in metadata.items():
        if value is not None:
            setattr(card.data, name, value)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *_TAGS]))
    card.save(path)


def _failed(failed: Iterable[str]) -> str:
    lines = [f"- {sentence}" for sentence in failed]
    return "\n".join(["", "### What stands against publishing it", "", *lines, ""]) if lines else ""


def _replaced(text: str, section: str) -> str:
    """The text with our section: in the place of an older one, or at the end."""
    heading = re.escape(section.split("\n", 1)[0])
    # Up to the next heading of the same level or a higher one; our own subsections are of a lower one.
    older = re.compile(rf"^{heading}\n.*?(?=^#{{1,2}} |\Z)", flags=re.DOTALL | re.MULTILINE)
    if older.search(text) is None:
        return f"{text.rstrip()}\n\n{section}"
    return older.sub(lambda _: f"{section}\n", text, count=1).rstrip() + "\n"
