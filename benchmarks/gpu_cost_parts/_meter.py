from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, flop_registry


def _of_all_heads(formula: Callable[..., int], tensors: int) -> Callable[..., int]:
    """The same for keys and values with fewer heads than queries, each of which serves a group: torch's own refuses them."""

    def counted(*arguments: Any, out_shape: Any = None, **others: Any) -> int:
        shapes, rest = arguments[:tensors], arguments[tensors:]
        heads = max(shape[1] for shape in shapes)
        return formula(*((shape[0], heads, *shape[2:]) for shape in shapes), *rest, **others)

    return counted


ATTENTION = {
    kind: _of_all_heads(formula, tensors=4 if "backward" in str(kind) else 3)
    for kind, formula in flop_registry.items()
    if "scaled_dot_product" in str(kind)
}


class Meter:
    """Told when a step starts and ends; after warm-up and timed steps, it counts operations in one, and kernels in one more.

    Args:
        device: Where the steps run.
        warm_up: Steps before the clock counts.
        timed: Steps that it counts, at most.
        seconds: Timed steps end after so many seconds, but not before the second one.
        counts: Whether floating-point operations are counted, which does not go together with `torch.compile`.
        kernels: Whether kernels are.
    """

    def __init__(
        self, device: torch.device, *, warm_up: int, timed: int, seconds: float, counts: bool, kernels: bool
    ) -> None:
        self.device, self.warm_up, self.timed, self.seconds = device, warm_up, timed, seconds
        self.extra = ["flops"] * counts + ["kernels"] * kernels
        self.found: dict[str, Any] = {}
        self._marks: list[tuple[Any, Any]] = []
        self._began, self._steps, self._stack = time.perf_counter(), 0, ExitStack()

    def close(self) -> None:
        """After a step that failed: count no further."""
        self._stack.close()

    def start(self) -> None:
        """Before each step."""
        self._now = self._next()
        if self._now == "timed":
            if not self._marks:
                self._synchronize()
                self._first = time.perf_counter()
            self._marks.append((self._mark(), None))
        elif self._now == "flops":
            self._close_timed()
            self._flops = self._stack.enter_context(FlopCounterMode(display=False, custom_mapping=ATTENTION))
        elif self._now == "kernels":
            self._close_timed()
            on_gpu = self.device.type == "cuda"
            kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
            self._profile = self._stack.enter_context(profile(activities=[kind]))

    def end(self) -> bool:
        """After each step. Whether that was the last one."""
        if self._now == "warm up" and self._steps == 0:
            self._synchronize()
            self.found["begins_s"] = round(time.perf_counter() - self._began, 2)
        elif self._now == "timed":
            self._marks[-1] = (self._marks[-1][0], self._mark())
        elif self._now == "flops":
            self._stack.close()
            self.found["tflop"] = round(self._flops.get_total_flops() / 1e12, 6)
        elif self._now == "kernels":
            self._synchronize()
            self._stack.close()
            self.found |= _launched(self._profile, self.device)
        self._steps += 1
        if self._next() != "done":
            return False
        self._close_timed()
        return True

    def _next(self) -> str:
        if self._steps < self.warm_up:
            return "warm up"
        late = len(self._marks) >= 2 and time.perf_counter() - self._first > self.seconds
        if "ms" not in self.found and len(self._marks) < self.timed and not late:
            return "timed"
        left = [name for name in self.extra if name not in self._done()]
        return left[0] if left else "done"

    def _done(self) -> set[str]:
        return {name for name, key in (("flops", "tflop"), ("kernels", "kernels")) if key in self.found}

    def _close_timed(self) -> None:
        if "ms" in self.found or not self._marks:
            return
        self._synchronize()
        wall = time.perf_counter() - self._first
        taken = [_between(start, end) for start, end in self._marks]
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        self.found |= {
            "ms": round(statistics.median(taken), 2),
            "each_ms": [round(t, 2) for t in taken],
            "wall_ms": round(wall * 1e3 / len(taken), 2),
            "gigabytes": round(peak / 2**30, 3),
        }

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _between(start: Any, end: Any) -> float:
    """Milliseconds."""
    return (end - start) * 1e3 if isinstance(start, float) else float(start.elapsed_time(end))


def _launched(seen: Any, device: torch.device) -> dict[str, Any]:
    """Kernels, and copies and fillings, on a GPU; operations of torch on a CPU."""
    if device.type != "cuda":
        own = [e for e in seen.events() if e.name.startswith("aten::")]
        return {"kernels": sum(e.cpu_parent is None or not e.cpu_parent.name.startswith("aten::") for e in own)}
    on_gpu = [e for e in seen.events() if e.device_type == DeviceType.CUDA]
    moved = [e for e in on_gpu if e.name.startswith(("Memcpy", "Memset"))]
    busy = sum(e.time_range.elapsed_us() for e in on_gpu) / 1e3
    return {"kernels": len(on_gpu) - len(moved), "copies": len(moved), "busy_ms": round(busy, 2)}


def ceiling(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """TFLOP/s of one large matrix product: the fastest of several."""
    one, two = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    meter = Meter(device, warm_up=3, timed=10, seconds=1.0, counts=False, kernels=False)
    while True:
        meter.start()
        one @ two
        if meter.end():
            return 2 * size**3 / (min(meter.found["each_ms"]) * 1e9)
