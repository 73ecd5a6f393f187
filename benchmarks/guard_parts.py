"""Where a guarded step's extra seconds go: each part of it by itself, on random gradients in the shapes of SmolLM2-135M.

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE python benchmarks/guard_parts.py
    python benchmarks/guard_parts.py --rank 8 --storage int8
    python benchmarks/guard_parts.py --rank 8 --training lora
    python benchmarks/guard_parts.py --rank 8 --layers 8 --clock process    # on a busy machine: CPU seconds of fewer layers

The proposed step raises the loss of this step's direction, so every step is corrected. Smallest of three, after one more.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import torch

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards import BFloat16, Euclidean, Float32, Int8, MainMemory, NoIncrease, Storage
from lightning_unlearn.guards._guarded_step import GuardedStep, PastProducts
from lightning_unlearn.guards._layout import Layout
from lightning_unlearn.transforms import Step

WIDTH, INNER, KEYS, LAYERS, TOKENS = 576, 1536, 192, 30, 49152
LAYER = [(WIDTH, WIDTH), (KEYS, WIDTH), (KEYS, WIDTH), (WIDTH, WIDTH), (INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER)]
ADAPTERS = [shape for out, into in LAYER for shape in ((8, into), (out, 8))]
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
STORAGES = {"float32": Float32(), "bfloat16": BFloat16(), "int8": Int8(), "main_memory": MainMemory()}


def shapes_of(training: str, layers: int) -> list[tuple[int, ...]]:
    """Of all weights, or of an adapter's."""
    full = [(TOKENS, WIDTH), *[*LAYER, (WIDTH,), (WIDTH,)] * layers, (WIDTH,)]
    return full if training == "full" else ADAPTERS * layers


def parts(
    shapes: list[tuple[int, ...]], rank: int, storage: Storage, now: Callable[[], float]
) -> dict[str, list[float]]:
    torch.manual_seed(0)
    network = torch.nn.ParameterList([torch.randn(shape) * 0.02 for shape in shapes])
    params = list(network)
    optimizer = torch.optim.AdamW(params, lr=1e-5, fused=True)
    first = [torch.randn_like(p) * 1e-3 for p in params]
    kept = [[storage.stored(g) for g in first]]
    kept += [[storage.stored(torch.randn_like(p) * 1e-3) for p in params] for _ in range(rank - 1)]
    seconds: dict[str, list[float]] = defaultdict(list)
    past = None
    for _ in range(4):
        for p, g in zip(params, first, strict=True):
            p.grad = -g + 0.3e-3 * torch.randn_like(p)
        marks = [("", now())]

        def mark(name: str, marks: list[tuple[str, float]] = marks) -> None:
            marks.append((name, now()))

        _copy = [storage.stored(p.grad) for p in params if p.grad is not None]
        mark("copy of the gradient")
        del _copy
        taken, engine = Step(optimizer), GradientEngine(network)
        layout = Layout.of(optimizer, [0] * len(params), storage, engine)
        for group in layout.wanted():
            taken.snapshot.keep(group)
        step = GuardedStep(engine, taken, layout, kept, 1, storage, past)
        mark("snapshot of the weights")
        optimizer.step()
        mark("the optimizer's own step")
        with torch.no_grad():
            proposed = step._proposed = step._products(Euclidean())
            mark("products")
            multipliers = NoIncrease().multipliers(proposed.gramian, proposed.along).multipliers
            mark("multipliers")
            step._take_out_(multipliers, Euclidean(), proposed)
            mark("correcting and measuring")
        assert multipliers.any()
        if rank > 1:  # in a fit this step's direction is past in the next one; here all stay where they are
            past = PastProducts(kept[1:], step._moving, proposed.gramian[:, 1:, 1:], proposed.squares[:, 1:-1])
        for (_, start), (name, end) in pairwise(marks):
            seconds[name].append(end - start)
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=1, help="number of directions")
    parser.add_argument("--training", default="full", choices=["full", "lora"])
    parser.add_argument("--storage", default="float32", choices=list(STORAGES))
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    arguments = parser.parse_args()
    shapes = shapes_of(arguments.training, arguments.layers)
    print(f"{sum(torch.Size(s).numel() for s in shapes) / 1e6:.1f} M weights, {torch.get_num_threads()} threads")
    for name, values in parts(shapes, arguments.rank, STORAGES[arguments.storage], CLOCKS[arguments.clock]).items():
        print(f"{name:26s} {min(values):.3f} s")


if __name__ == "__main__":
    main()
