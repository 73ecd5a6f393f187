"""Memory and seconds of a loss over a large vocabulary, from hidden states on: all logits at once, and in chunks of rows.

    python benchmarks/head_memory.py                     # 384 rows of width 192 in float32, on the CPU: twenty minutes
    python benchmarks/head_memory.py --device cuda       # 4096 rows of width 2048 in bfloat16: a minute

`plain` computes the logits, then the loss, as `Prediction.logits` does. `chunks` puts them off (`HeadLogits`, as readouts
give it), with the default size of a chunk. `torch` is torch's own `linear_cross_entropy` in chunks of the same size, where
it is there (torch 2.13) and the objective reads likelihoods only. A run is the loss and its backward pass; a frozen head
gets no gradient. The ways take turns. Memory is what the run adds to its inputs at its
peak (on the CPU, resident size), less the head's gradient of V x D numbers, which no way of computing it can save.
Writes `benchmarks/results/head_memory_<device>.json` after each variant, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # the package may not be installed
VOCABULARIES = (49_152, 131_072, 262_144)
CASES = ("ce:trained", "npo:trained", "npo:frozen", "kl:trained", "jensun:trained")
SIZES = {"cpu": (384, 192, "float32"), "cuda": (4096, 2048, "bfloat16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=list(SIZES))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=list(VOCABULARIES))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chunk", type=int, help="logits at once; by default the package's own number")
    parser.add_argument("--name", help="of the results, instead of the device's")
    a = parser.parse_args()
    rows, width, dtype = SIZES[a.device]
    a.rows, a.width, a.dtype = a.rows or rows, a.width or width, a.dtype or dtype
    path = ROOT / "benchmarks" / "results" / f"head_memory_{a.name or a.device}.json"
    seen = json.loads(path.read_text()) if path.exists() else about(a)
    for vocabulary in a.vocabularies:
        for case in a.cases:
            if f"{case}:{vocabulary}" not in seen["variants"]:
                seen["variants"][f"{case}:{vocabulary}"] = found = measure(a, case, vocabulary)
                print(case, vocabulary, found, flush=True)
                path.write_text(json.dumps(seen, indent=1) + "\n")
    print(table(seen))


def about(a: argparse.Namespace) -> dict[str, Any]:
    import torch
    from run_config import commit, machine

    device = torch.cuda.get_device_name() if a.device == "cuda" else "cpu"
    sizes = {"rows": a.rows, "width": a.width, "dtype": a.dtype, "chunk": a.chunk}
    return {
        "commit": commit(),
        "machine": machine(),
        "device": device,
        "torch": torch.__version__,
        **sizes,
        "variants": {},
    }


def measure(a: argparse.Namespace, case: str, vocabulary: int) -> dict[str, Any]:
    """Seconds, megabytes and norms of gradients of each way."""
    import torch
    from torch.nn import functional as F

    objective, head = case.split(":")
    device, dtype = torch.device(a.device), getattr(torch, a.dtype)
    torch.manual_seed(0)
    hidden = torch.randn(a.rows, a.width, device=device, dtype=dtype).requires_grad_()
    weight = torch.randn(vocabulary, a.width, device=device, dtype=dtype) / a.width**0.5
    weight.requires_grad_(head == "trained")
    labels = torch.randint(vocabulary, (a.rows,), device=device)
    example = torch.arange(a.rows, device=device) // max(1, a.rows // 16)  # sixteen answers
    theirs = ["torch"] if objective == "npo" and hasattr(F, "linear_cross_entropy") else []
    ways = ["plain", "chunks", *theirs]
    found: dict[str, Any] = {way: {"seconds": [], "megabytes": [], "gradients": []} for way in ways}
    # A small one first, so that libraries and their threads are there before memory is looked at.
    loss("plain", objective, hidden[:16], weight[:64], labels[:16] % 64, example[:16], a.chunk).backward()
    for _ in range(a.runs):
        for way in ways:
            hidden.grad = weight.grad = None
            with Peak(device) as peak:
                start = time.perf_counter()
                loss(way, objective, hidden, weight, labels, example, a.chunk).backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                found[way]["seconds"].append(round(time.perf_counter() - start, 4))
            own = weight.numel() * weight.element_size() if weight.requires_grad else 0
            found[way]["megabytes"].append(round((peak.bytes - own) / 2**20, 1))
            norms = [float(t.grad.float().norm()) for t in (hidden, weight) if t.grad is not None]
            found[way]["gradients"] = norms
    return found


class Peak:
    """The most memory that is held above what is held now."""

    def __init__(self, device: Any) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> Peak:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before, self.most, self.done = resident(), 0, threading.Event()
            self.watch = threading.Thread(target=self._look)
            self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated() - self.before
            return
        self.done.set()
        self.watch.join()
        self.bytes = self.most - self.before

    def _look(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, resident())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def loss(way: str, case: str, hidden: Any, weight: Any, labels: Any, example: Any, chunk: int | None) -> Any:
    import torch
    from torch.nn import functional as F

    from lightning_unlearn import NPO, CrossEntropy, KLToReference, Prediction
    from lightning_unlearn.functional.head_logits import HeadLogits
    from lightning_unlearn.objectives import JensUn
    from lightning_unlearn.prediction import KnownLikelihood
    from lightning_unlearn.readouts import logits_at_once

    chunk, size = chunk or logits_at_once(hidden.device), int(example[-1]) + 1

    def read(states: Any) -> Prediction:
        logits = F.linear(states, weight) if way == "plain" else HeadLogits(states, weight, elements=chunk)
        return Prediction(logits, labels, example, size)

    original = KnownLikelihood(torch.full(example.shape, math.log(len(weight)), device=hidden.device), example, size)
    if way == "torch":
        options = torch.nn.LinearCrossEntropyOptions(
            chunking_method=None, batch_chunk_size=max(1, chunk // weight.shape[0])
        )
        nll = F.linear_cross_entropy(hidden, weight, labels, reduction="none", options=options)
        return NPO(0.1)(KnownLikelihood(nll.float(), example, size), original)
    if case == "kl":
        with torch.no_grad():
            reference = read(hidden.detach() * 0.9)
        return KLToReference()(read(hidden), reference)
    objective = {"ce": CrossEntropy(), "npo": NPO(0.1), "jensun": JensUn([3, 4])}[case]
    return objective(read(hidden), original)


def table(seen: dict[str, Any]) -> str:
    heads = ("", "vocabulary", "plain MB", "chunks MB", "plain s", "chunks over plain", "torch's own: MB, over plain")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, found in sorted(seen["variants"].items(), key=lambda item: item[0].split(":")[:2]):
        case, head, size = key.split(":")
        mb = {way: max(values["megabytes"]) for way, values in found.items()}
        s = {way: statistics.median(values["seconds"]) for way, values in found.items()}
        theirs = f"{mb['torch']:.0f}, {s['torch'] / s['plain']:.2f}" if "torch" in mb else ""
        lines.append(
            f"| {case}, {head} head | {int(size):,} | {mb['plain']:.0f} | {mb['chunks']:.0f} | {s['plain']:.3g} "
            f"| {s['chunks'] / s['plain']:.2f} | {theirs} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
