"""Where the loss of a row lies after unlearning: in the words of the answer, or in the ends of turns that follow them.

    python benchmarks/peer/ends.py --tofu ../shared/data/tofu "NPO (open-unlearning)=open-unlearning/saves/unlearn/npo-0"

open-unlearning's rows in ChatML end with the end of turn, a new line, and the end of turn again; all three are supervised.
Prints means over the forty rows that must go, in nats a token: of their rows and in their masking (every end of turn is
hidden from attention), and of the words alone as our audit asks them, nothing hidden.

Writes `benchmarks/results/tofu_peer_ends.json`, beside the networks that are in it, or in their place.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from peer.export import FORGET, read

PARTS = ("words", "end of turn", "new line", "second end", "all of theirs", "words, nothing hidden")
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NAME=FOLDER", help="as Hugging Face writes them")
    parser.add_argument("--tofu", type=Path, required=True, help="folder with `full.jsonl`")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = read(arguments.tofu / "full.jsonl")[slice(*FORGET)]
    folders = [given.rpartition("=")[::2] for given in arguments.networks]
    found = {name or Path(folder).name: of_folder(folder, rows) for name, folder in folders}
    path = arguments.results / "tofu_peer_ends.json"
    if path.exists():
        found = json.loads(path.read_text())["networks"] | found
    path.write_text(json.dumps({"unit": "nats a token", "rows": len(rows), "networks": found}, indent=1) + "\n")
    print("| network | " + " | ".join(PARTS) + " |\n|" + "---|" * (len(PARTS) + 1))
    for name, values in found.items():
        print(f"| {name} | " + " | ".join(f"{values[part]:.2f}" for part in PARTS) + " |")


def of_folder(folder: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    means = torch.stack([losses(network, tokenizer, row) for row in rows]).mean(0)
    return dict(zip(PARTS, (round(mean, 4) for mean in means.tolist()), strict=True))


@torch.no_grad()
def losses(network: Any, tokenizer: Any, row: Mapping[str, str]) -> torch.Tensor:
    """Of one row, as `PARTS` names them."""
    ids, prompt = tokens(tokenizer, row)
    shown = (ids != tokenizer.eos_token_id).long()  # what their collator does, since padding is the end of turn
    theirs, ours = (each(network, ids, mask)[prompt - 1 :] for mask in (shown, torch.ones_like(ids)))
    return torch.stack([theirs[:-3].mean(), *theirs[-3:], theirs.mean(), ours[:-3].mean()])


def tokens(tokenizer: Any, row: Mapping[str, str]) -> tuple[torch.Tensor, int]:
    """A row of theirs, and how many of its tokens are the prompt."""
    question, answer = (
        {"role": role, "content": row[key]} for role, key in (("user", "question"), ("assistant", "answer"))
    )
    whole = tokenizer.apply_chat_template([question, answer], return_dict=False)
    prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, return_dict=False)
    if tokenizer.decode(whole[-2:]) != f"{tokenizer.eos_token}\n":
        ends = tokenizer.decode(whole[-2:])
        raise ValueError(
            f"A turn should end with {tokenizer.eos_token!r} and a new line, as in ChatML. Found {ends!r}."
        )
    return torch.tensor([*whole, tokenizer.eos_token_id]), len(prompt)


def each(network: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The loss of every token but the first."""
    logits = network(input_ids=ids[None], attention_mask=mask[None]).logits[0]
    return cross_entropy(logits[:-1].float(), ids[1:], reduction="none")


if __name__ == "__main__":
    main()
