"""What an attack in a check costs beyond its own passes, what memory it takes, and how many passes audits make.

    python benchmarks/attack_cost.py              # all, some minutes
    python benchmarks/attack_cost.py --turns 5    # each of them as often
    python benchmarks/attack_cost.py --only quantize prune    # the other rows stay as they are, each with its commit
    python benchmarks/attack_cost.py --tiny       # to try it, in a minute; writes nothing

A Llama of the bundled tokenizer, 512 wide and 8 blocks deep, in float32, one thread; 18 forget and 18 retain rows of the
bundled people. `check` is `RecoveryCheck` under `trainer.validate` with one attack and two audits, less the same check
without the attack. `by_hand` is what one would write in a notebook for the same numbers, and throw the network away: the
same steps of AdamW on the same parameters, or the same rounding, pruning or noise of the same tensors in a line of torch,
and the same forward passes at the same points. The difference is what isolation, hashes of the weights, the copy, and
putting back cost.

Seconds are CPU time of the process, since the machine is shared; medians over turns. Memory is the peak resident size of a
process of its own, less that of by hand, which changes the network for good; both have looked at the network once before,
without an attack, so that what a trainer takes is in both. It is compared with one copy of what the attack changes.
`passes` counts forward passes of the network for one look without an attack.
Writes `benchmarks/results/attack_cost.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS, RATE = 10, 1e-4
OTHERS = ("quantize", "prune", "noise")
TINY = "ATTACK_COST_TINY"
NAMES = ("relearn_full", "relearn_full_cpu", "relearn_adapter", "passive", *OTHERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", help="what a process of its own runs: way:attack")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="which rows are measured anew")
    parser.add_argument("--tiny", action="store_true", help="a small network, and nothing is written")
    arguments = parser.parse_args()
    if arguments.tiny:
        os.environ[TINY] = "1"
    if arguments.one:
        print("RESULT " + json.dumps(measured(*arguments.one.split(":"))))
        return
    if TINY not in os.environ and os.getloadavg()[0] > 1.5:
        print("Others are at work on this machine: medians of CPU time will be too high.", file=sys.stderr)
    passes, seen = in_a_process_of_its_own("passes:none"), {}
    for turn in range(arguments.turns):
        for name in arguments.only:
            for way in ("check", "by_hand") if turn % 2 == 0 else ("by_hand", "check"):
                seen.setdefault(f"{way}:{name}", []).append(in_a_process_of_its_own(f"{way}:{name}"))
                print(turn, f"{way}:{name}", seen[f"{way}:{name}"][-1], flush=True)
        write(seen, passes)


def write(seen: dict[str, list[dict[str, Any]]], passes: dict[str, Any]) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run_config import commit, machine

    path = ROOT / "benchmarks" / "results" / "attack_cost.json"
    before = {"rows": {}, "runs": {}} if TINY in os.environ else json.loads(path.read_text())
    names = [name for name in NAMES if f"check:{name}" in seen and f"by_hand:{name}" in seen]
    rows = {name: {**row(seen[f"check:{name}"], seen[f"by_hand:{name}"]), "commit": commit()} for name in names}
    rows = {**{name: old for name, old in before["rows"].items() if name in NAMES}, **rows}
    found = {"machine": machine(), "rows": rows, "passes": passes, "runs": {**before["runs"], **seen}}
    if TINY not in os.environ:
        path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(rows, passes), flush=True)


def row(check: list[dict[str, Any]], by_hand: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of both ways, and what is between them."""
    ours, theirs = (statistics.median(run["seconds"] for run in runs) for runs in (check, by_hand))
    more = statistics.median(r["gigabytes"] for r in check) - statistics.median(r["gigabytes"] for r in by_hand)
    changed = check[0]["changed_gigabytes"]
    return {
        "seconds": ours,
        "seconds_by_hand": theirs,
        "overhead": ours / theirs - 1,
        "more_gigabytes": more,
        "changed_gigabytes": changed,
        "more_copies": more / changed,
    }


def table(rows: dict[str, dict[str, Any]], passes: dict[str, int]) -> str:
    """For people."""
    lines = [
        "| attack | seconds | by hand | overhead | memory more, GB | of what changes, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        both = f"{r['seconds']:.1f} | {r['seconds_by_hand']:.1f} | {r['overhead']:+.1%}"
        lines.append(f"| {name} | {both} | {r['more_gigabytes']:+.3f} | {r['changed_gigabytes']:.3f} |")
    return "\n".join([*lines, *(f"{name}: {count}" for name, count in passes.items())])


def in_a_process_of_its_own(variant: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", variant]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{variant} should print a result. Found:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    return result


def measured(way: str, name: str) -> dict[str, Any]:
    if way == "passes":
        return counted_passes()
    network = whole_network()
    look(network, {})
    seconds = (checked if way == "check" else by_hand)(name, network)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(p.numel() * p.element_size() for p in changed(name, network)) / 2**30
    return {"seconds": round(seconds, 3), "gigabytes": round(peak, 4), "changed_gigabytes": round(size, 4)}


def whole_network() -> Any:
    from lightning_unlearn import TinyCausalLM

    if TINY in os.environ:
        return TinyCausalLM(hidden_size=64, num_hidden_layers=2).eval()
    return TinyCausalLM(hidden_size=512, num_hidden_layers=8).eval()


def changed(name: str, network: Any) -> list[Any]:
    """The weights that an attack changes: of rounding and pruning those of linear layers, without the head."""
    from torch import nn

    if name not in ("quantize", "prune"):
        return list(network.parameters())
    return [m.weight for n, m in network.named_modules() if isinstance(m, nn.Linear) and not n.endswith("lm_head")]


def data(group: str) -> Any:
    from lightning_unlearn import Encoding, FileRecords, LoaderSettings, QuestionAnswerData

    records = FileRecords("bundled:people", entity="entity", where={"group": [group]}, rows=(0, 18))
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6, shuffle=False))


def attack_of(name: str) -> Any:
    from lightning_unlearn import Noise, PassiveRecovery, Prune, Quantize, Relearn

    common: dict[str, Any] = {"steps": STEPS, "lr": RATE}
    made: dict[str, Callable[[], Any]] = {
        "relearn_full": lambda: Relearn(mode="full", store="device", **common),
        "relearn_full_cpu": lambda: Relearn(mode="full", store="cpu", **common),
        "relearn_adapter": lambda: Relearn(**common),
        "passive": lambda: PassiveRecovery(0.5, mode="full", **common),
        "quantize": lambda: Quantize(bits=4),
        "prune": lambda: Prune(0.3),
        "noise": lambda: Noise(0.01),
    }
    return made[name]()


def audits() -> list[Any]:
    from lightning_unlearn import AnswerProbability, ExactMemorization, TokenNLL
    from lightning_unlearn.audits import Measure

    return [Measure({"probability": AnswerProbability(), "nll": TokenNLL()}), Measure({"exact": ExactMemorization()})]


def checked(name: str, network: Any) -> float:
    """CPU seconds of a check with the attack, less those of one without."""
    return look(network, {name: attack_of(name)}) - look(network, {})


def look(network: Any, attacks: Any, given: Any = None, calls: list[int] | None = None) -> float:
    import lightning.pytorch as pl

    from lightning_unlearn import ForgetRetainData, RecoveryCheck, UnlearningModule

    class Timed(RecoveryCheck):
        seconds = 0.0

        def check(self, trainer: Any, pl_module: Any) -> Any:
            if calls is not None:
                calls[0] = 0  # those of the validation itself
            start = time.process_time()
            values = super().check(trainer, pl_module)
            self.seconds += time.process_time() - start
            return values

    check = Timed(attacks, given or audits())
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", callbacks=[check], limit_val_batches=1, enable_model_summary=False, **quiet)
    both = ForgetRetainData(retain=data("retain"), forget=data("forget"))
    trainer.validate(UnlearningModule(network), datamodule=both, verbose=False)
    assert not check.failures, check.failures
    return check.seconds


def by_hand(name: str, network: Any) -> float:
    """CPU seconds of the same changes and passes, in a few lines."""
    import torch

    from lightning_unlearn.attacks._adapter import attached_adapter
    from lightning_unlearn.objectives import CrossEntropy
    from lightning_unlearn.readouts import CausalLMReadout

    attack, readout = attack_of(name), CausalLMReadout()
    forget, retain = ([*data(group).train_dataloader()] for group in ("forget", "retain"))
    start = time.process_time()
    if name in OTHERS:
        with torch.no_grad():
            for weight in changed(name, network):
                weight.copy_(IN_TORCH[name](weight))
        evaluate(network, readout, [forget, retain])
        return time.process_time() - start
    adapter = attached_adapter(network, rank=8, seed=0) if attack.mode == "adapter" else nullcontext([])
    with adapter as changes:
        named = network.named_parameters()
        params = [p for c in changes for p in c.params] or [
            p for n, p in named if attack.layers is None or ".mlp." in n
        ]
        optimizer = torch.optim.AdamW(params, lr=RATE, weight_decay=0.0)
        batches = in_turn(forget, retain) if name == "passive" else over_and_over(forget)
        done = 0
        for stop in attack.grid():
            for _ in range(stop - done):
                loss = CrossEntropy()(readout.for_mean()(network, next(batches)))
                # As our engine takes it: only of what is trained.
                for p, grad in zip(params, torch.autograd.grad(loss, params), strict=True):
                    p.grad = grad
                optimizer.step()
                optimizer.zero_grad()
            done = stop
            evaluate(network, readout, [forget, retain])
    return time.process_time() - start


def rounded(weight: Any) -> Any:
    """To four bits, one scale for each row."""
    step = weight.abs().amax(1, keepdim=True) / 7
    return (weight / step).round() * step


def pruned(weight: Any) -> Any:
    """Without the smallest three in ten."""
    size = weight.abs()
    return weight * (size > size.flatten().kthvalue(round(0.3 * size.numel())).values)


def noisy(weight: Any) -> Any:
    """With noise of a hundredth of its size."""
    return weight + 0.01 * weight.square().mean().sqrt() * weight.new_empty(weight.shape).normal_()


IN_TORCH: dict[str, Callable[[Any], Any]] = {"quantize": rounded, "prune": pruned, "noise": noisy}


def over_and_over(batches: list[Any]) -> Iterator[Any]:
    while True:
        yield from batches


def in_turn(forget: list[Any], retain: list[Any]) -> Iterator[Any]:
    own, others = over_and_over(forget), over_and_over(retain)
    while True:
        yield next(others)
        yield next(own)


def evaluate(network: Any, readout: Any, splits: list[list[Any]]) -> None:
    import torch

    for split in splits:
        metrics = [metric for audit in audits() for metric in audit.metrics(readout).values()]
        numbers = 0
        for batch in split:
            with torch.no_grad():
                prediction = readout(network, batch)
            for metric in metrics:
                metric.update(prediction, torch.arange(numbers, numbers + prediction.batch_size))
            numbers += prediction.batch_size
        for metric in metrics:
            metric.compute()


@contextmanager
def counting(network: Any) -> Iterator[list[int]]:
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    handle = network.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def counted_passes() -> dict[str, int]:
    """Forward passes of one look at the model, with more and more audits that score right answers."""
    from lightning_unlearn import TinyCausalLM

    network, found = TinyCausalLM(hidden_size=32, num_hidden_layers=1), {}
    found["batches of both probes"] = 6
    for number in (1, 2):
        with counting(network) as calls:
            look(network, {}, audits()[:number], calls)
        found[f"passes of {number} scoring audits"] = calls[0]
    return found


if __name__ == "__main__":
    main()
