"""One optimizer step of a 1B model on a GPU: milliseconds, peak memory, utilisation and kernels, over plain fine-tuning.

    python benchmarks/gpu_cost.py --seconds 90                       # on the GPU at hand
    python benchmarks/gpu_cost.py --size tiny --device cpu           # does it run?
    python benchmarks/gpu_cost.py --cases NPO "NPO, guard rank 8"    # some of them
    python benchmarks/gpu_cost.py --reprint

A Llama in the shapes of Llama-3.2-1B with random weights and a tied head, 4 + 4 rows of 512 or 128 random tokens without
padding (so nothing is saved by packing), three quarters of them supervised; fused AdamW, and no clipping, which Lightning
refuses beside it under autocast. `bf16-mixed`: float32 weights, autocast; `bf16`: weights, gradients and moments in bf16.
Every case in this process, on a network of its own.

`ms` is the median of CUDA events around a step, after three warm-up steps and more while a history fills; `wall` the mean
from one step's start to the next, data included. `GB` is what torch has allocated at most. `busy` is the share of the
card's measured ceiling (one large product) that the step's counted operations reach. `kernels` are launches in one step.
Guards use `NoChange`, which corrects every step. *Compiled*: the decoder, by `network.model.compile()`; in brackets the
seconds from building the network to the end of the first step.

All cases in the first setting, then the most important ones in the others, compiled ones in the first, and what is left.
After each case `--out` is written. A case is begun only if one like the last still fits into `--seconds`, and the process
ends when these are over, whatever runs. Started again, it goes on with the cases that are missing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from gpu_cost_parts._cases import CASES, COMPILED, CORE, PLAIN, warm_up
from gpu_cost_parts._meter import Meter, ceiling
from run_config import commit

RESULTS = Path(__file__).parent / "results" / "gpu_cost.json"
DTYPES = {"bf16-mixed": torch.float32, "bf16": torch.bfloat16}
HEADER = ["", "ms", "wall", "over plain", "GB", "over plain", "busy", "kernels"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="for everything, imports aside")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="1b", choices=["1b", "tiny"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 128])
    parser.add_argument("--precisions", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled ones")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--reprint", action="store_true", help="print the tables of the results on disk")
    arguments = parser.parse_args()
    if not arguments.reprint:
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        deadline = time.perf_counter() + arguments.seconds
        threading.Thread(target=_end_at, args=(deadline, arguments.out), daemon=True).start()
        measure_all(arguments, deadline)
    print(table(json.loads(arguments.out.read_text())))


def _end_at(deadline: float, path: Path) -> None:
    """A compilation cannot be interrupted, so the process ends: what was measured is on disk."""
    time.sleep(max(deadline - time.perf_counter(), 0))
    try:
        print("The time is over.", table(json.loads(path.read_text())), sep="\n", flush=True)
    finally:
        os._exit(0)


def measure_all(arguments: argparse.Namespace, deadline: float) -> None:
    device = torch.device(arguments.device)
    torch.set_float32_matmul_precision("high")
    found = read(arguments.out, arguments.size, device)
    last: dict[bool, float] = {}
    for name, precision, length, compiled in plan(arguments):
        key = f"{name}|{precision}|{length}|{'compiled' if compiled else 'eager'}"
        if "ms" in found["cases"].get(key, {}) or deadline - time.perf_counter() < 1.3 * last.get(compiled, 0):
            continue
        began = time.perf_counter()
        kernels = not compiled and length == arguments.lengths[0]
        meter = Meter(device, warm_up=warm_up(name), timed=8, seconds=1.5, counts=not compiled, kernels=kernels)
        found["cases"][key] = measured(name, meter, arguments.size, length, DTYPES[precision], compiled=compiled)
        meter.close()
        last[compiled] = time.perf_counter() - began
        found["cases"][key]["case_s"] = round(last[compiled], 1)
        written = arguments.out.with_suffix(".part")  # moved in place at once, since the process may end at any moment
        written.write_text(json.dumps(found, indent=1) + "\n")
        written.replace(arguments.out)
        print(key, {k: v for k, v in found["cases"][key].items() if k != "each_ms"}, flush=True)


def plan(arguments: argparse.Namespace) -> list[tuple[str, str, int, bool]]:
    """What to measure, the most important first."""
    settings = list(itertools.product(arguments.precisions, arguments.lengths))
    every = [(name, *setting, False) for setting in settings for name in arguments.cases]
    compiled = [(name, *setting, True) for setting in settings for name in COMPILED if name in arguments.cases]
    first = every[: len(arguments.cases)]
    core = [case for case in every if case[0] in CORE and case not in first]
    rest = [case for case in every if case not in first and case not in core]
    return first + core + rest if arguments.no_compile else first + core + compiled[:2] + rest + compiled[2:]


def read(path: Path, size: str, device: torch.device) -> dict[str, Any]:
    """Results to go on with, if they are of this card; else a new start, with the card's name and ceiling."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if (found.get("device"), found.get("size")) != (name, size):
        found = {"device": name, "size": size, "torch": torch.__version__, "cases": {}}
        found["commit"] = commit() if shutil.which("git") else ""
        found["ceiling_tflops"] = ceiling(device, torch.bfloat16, 8192 if device.type == "cuda" else 512)
        path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name}: ceiling {found['ceiling_tflops']:.4g} TFLOP/s", flush=True)
    return found


def measured(name: str, meter: Meter, *setting: Any, compiled: bool) -> dict[str, Any]:
    """Of one case; what went wrong, if something did."""
    on_gpu = meter.device.type == "cuda"
    if compiled:
        torch.compiler.reset()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(meter.device)
    try:
        CASES[name](meter, *setting, compiled=compiled)
    except Exception as error:  # one case out of memory does not end the others
        traceback.print_exc(limit=-3)
        meter.found["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        # What the next case does not start with: reported, so that nobody's memory counts for another.
        meter.found["left_gigabytes"] = round(torch.cuda.memory_allocated(meter.device) / 2**30, 3)
    return meter.found


def table(found: dict[str, Any]) -> str:
    """One table a setting, in ratios to the plain step of the same setting, not compiled."""
    lines = [f"{found['device']}, {found['size']}, torch {found['torch']}, commit {found['commit']}, "]
    lines[0] += f"ceiling {found['ceiling_tflops']:.4g} TFLOP/s"
    settings = dict.fromkeys(tuple(key.split("|")[1:3]) for key in found["cases"])
    for precision, length in settings:
        lines += ["", f"{precision}, 4 + 4 rows of {length} tokens", ""]
        lines += [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
        here = {k: v for k, v in found["cases"].items() if k.split("|")[1:3] == [precision, length]}
        plain = here.get(f"{PLAIN}|{precision}|{length}|eager", {})
        for key, row in here.items():
            flops = row.get("tflop", here.get(key.replace("compiled", "eager"), {}).get("tflop"))
            lines.append(f"| {' | '.join(cells(key, row, plain, flops, found['ceiling_tflops']))} |")
    return "\n".join(lines)


def cells(
    key: str, row: dict[str, Any], plain: dict[str, Any], flops: float | None, ceiling_tflops: float
) -> list[str]:
    name, *_, how = key.split("|")
    if "ms" not in row:
        return [name, row.get("error", ""), *[""] * (len(HEADER) - 2)]
    if how == "compiled":
        name += f", compiled ({row['begins_s']:.0f} s)"
    over = f"{row['ms'] / plain['ms']:.2f}" if "ms" in plain else ""
    memory = f"{row['gigabytes'] / plain['gigabytes']:.2f}" if plain.get("gigabytes") else ""
    busy = f"{flops / row['ms'] * 1e3 / ceiling_tflops:.0%}" if flops else ""
    return [
        name,
        f"{row['ms']:.1f}",
        f"{row['wall_ms']:.1f}",
        over,
        f"{row['gigabytes']:.1f}",
        memory,
        busy,
        str(row.get("kernels", "")),
    ]


if __name__ == "__main__":
    main()
