from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_unlearn import Encoding, PretrainedCausalLM, TinyCausalLM
from lightning_unlearn.bundled import bundled_path
from robustness_parts._setting import Rows, Setting, World

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data"))
STORIES = str(DATA / "models" / "stories260k")


def _bundled(forgotten: slice | None) -> World:
    """Of twenty people the three of the group to forget, or three others; four are taught and never shown again."""
    rows = read(Path(bundled_path()) / "people.jsonl")
    people = list(dict.fromkeys(row["entity"] for row in rows))
    marked = [p for p in people if any(row["entity"] == p and row["group"] == "forget" for row in rows)]
    others = [p for p in people if p not in marked]
    gone = marked if forgotten is None else others[forgotten]
    unseen = others[-4:]
    kept = [p for p in people if p not in gone and p not in unseen]
    forget, retain, neutral = (_about(rows, names) for names in (gone, kept, unseen))
    paraphrase = [{**row, "question": row["paraphrase"]} for row in forget]
    return World(forget, paraphrase, retain, unseen=neutral, neutral=neutral, benign=retain)


def _about(rows: Rows, names: list[str]) -> Rows:
    return [row for row in rows if row["entity"] in names]


def _tofu(authors: range, text: Path, tokens: int) -> World:
    """Ten authors of TOFU, of whom the first two must go."""
    rows = read(DATA / "tofu" / "full.jsonl")
    rows = [{**row, "entity": f"author {index // 20}"} for index, row in enumerate(rows)]
    told_again = read(DATA / "tofu" / "retain_perturbed.jsonl")
    first, last = 20 * authors.start, 20 * authors.stop
    forget, retain = rows[first : first + 40], rows[first + 40 : last]
    paraphrase = [
        {**row, "question": other["paraphrased_question"], "answer": other["paraphrased_answer"]}
        for row, other in zip(forget, told_again[first : first + 40], strict=True)
    ]
    sums = sorted(read(DATA / "gsm8k" / "train_1000.jsonl"), key=lambda row: len(row["question"] + row["answer"]))
    benign = [{**row, "entity": "none"} for row in sums[:40]]
    return World(forget, paraphrase, retain, unseen=[], neutral=pieces(text, tokens), benign=benign)


def pieces(text: Path, characters: int, count: int = 16) -> Rows:
    """Text cut into pieces of equal length, each the answer to an empty question."""
    whole = " ".join(text.read_text().split())[: characters * count]
    pieces = [whole[start : start + characters] for start in range(0, len(whole), characters)]
    return [{"question": "", "answer": piece, "entity": "text"} for piece in pieces]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def layer_names(tokenizer: str, *, middle: int, window: str) -> dict[str, Any]:
    """What `$name` in `methods.yaml` stands for: layers of a Llama."""
    layers = {"blocks": [r"layers\.\d+"], "window": [rf"layers\.{window}"], "mlps": [rf"layers\.{window}\.mlp"]}
    return {"tokenizer": tokenizer, "middle": f"layers.{middle}", **layers}


STORY = DATA / "models" / "stories260k" / "tinystories_sample.txt"
WIKI = DATA / "wikitext2_raw" / "wiki.test.head600k.raw"  # of `tofu_parts/_settings.py`

SETTINGS = {
    "bundled": Setting(
        name="bundled",
        network=lambda seed: TinyCausalLM(seed=seed),
        encoding=lambda: Encoding("bundled"),
        worlds={"test": lambda: _bundled(None), "tune": lambda: _bundled(slice(0, 3))},
        teach={"epochs": 50, "lr": 3e-3, "batch_size": 24},
        batch=(6, 18),
        steps=256,
        rates=(2.5e-4, 5e-4, 1e-3, 2e-3),
        every=8,
        names=layer_names("bundled", middle=1, window="[01]"),
        seconds=0.025,
        kl=2.0,
    ),
    "stories260k": Setting(
        name="stories260k",
        network=lambda seed: PretrainedCausalLM(STORIES),
        encoding=lambda: Encoding(STORIES, template="plain", max_length=384),
        worlds={
            "test": lambda: _tofu(range(0, 10), STORY, 250),
            "tune": lambda: _tofu(range(10, 20), STORY, 250),
        },
        teach={"epochs": 20, "lr": 4e-3, "batch_size": 16},
        batch=(8, 16),
        steps=60,
        rates=(2.5e-4, 5e-4, 1e-3),
        kl=1.0,
        every=6,
        names=layer_names(STORIES, middle=2, window="[123]"),
        panel="middle",
        seconds=0.12,
    ),
}
# Three people whom nobody had looked at when budget and length of `bundled` were set.
SETTINGS["bundled_others"] = replace(
    SETTINGS["bundled"],
    name="bundled_others",
    worlds={**SETTINGS["bundled"].worlds, "test": lambda: _bundled(slice(3, 6))},
)
