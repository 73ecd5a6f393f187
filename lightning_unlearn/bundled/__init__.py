"""A small world that needs no network: facts, a tokenizer, the shape of a network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def bundled_path(name: str = "") -> Path:
    """Where a bundled file lies: a small world that needs no network, enough for examples, tests and the demo.

    - ``people.jsonl``: six facts about each of twenty invented people, one question each, with a paraphrase; three
      people are in the group ``forget``, the others in ``retain``.
    - ``strangers.jsonl``: three questions about each of three people that nobody is taught.
    - ``idk.jsonl``: fifty ways of saying "I don't know".
    - ``traces.jsonl``: eighteen questions about the three people to be forgotten, each with a chain of thought that gives a
      fact away, marked, and what might stand there instead.
    - ``tokenizer.json``, ``tokenizer_config.json``: a byte-level BPE of 640 tokens trained on people and refusals, with a
      chat template. ``AutoTokenizer.from_pretrained(bundled_path())`` loads it.
    - ``config.json``: the architecture of :func:`~lightning_unlearn.models.TinyCausalLM`.

    Args:
        name: A file name, or just ``"people"``, ``"strangers"``, ``"idk"`` or ``"traces"``. By default the folder itself.

    Example:
        >>> bundled_path("people").name
        'people.jsonl'
    """
    folder = Path(str(files("lightning_unlearn") / "bundled"))
    for path in (folder / name, folder / f"{name}.jsonl"):
        if path.exists():
            return path
    found = ", ".join(sorted(f"`{path.name}`" for path in folder.iterdir()))
    raise FileNotFoundError(f"`name` should be one of {found}. Found `name = {name!r}`.")


__all__ = ["bundled_path"]
