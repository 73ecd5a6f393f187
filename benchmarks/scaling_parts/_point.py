from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lightning_unlearn import (
    NPO,
    AnswerProbability,
    ForgetRetainData,
    Quantize,
    RecoveryCheck,
    SequentialOrder,
    StepGuard,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import Measure
from lightning_unlearn.guards import History, NoChange

QUIET = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
TIMED, LOOKS = 3, 2
BITS = (2, 3, 4, 5, 6, 7, 8, 9)


@dataclass(frozen=True)
class Size:
    """Of one measurement: one of these grows along an axis."""

    rows: int = 4
    tokens: int = 64
    vocabulary: int = 4096
    width: int = 128
    directions: int = 0
    probes: int = 8
    attacks: int = 0

    def of(self, **changes: int) -> Size:
        """With some of them changed."""
        return replace(self, **changes)


class Clock(pl.Callback):
    """CPU seconds and counted operations of steps; memory at its highest, beside what was there before."""

    def __init__(self, warm_up: int, timed: int) -> None:
        self.warm_up, self.timed = warm_up, timed
        self.seconds: list[float] = []
        self.flops = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.counts = len(self.seconds) == self.warm_up + self.timed
        if self.counts:
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()
        self.start = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.seconds.append(time.process_time() - self.start)
        if self.counts:
            self.counter.__exit__(None, None, None)
            self.flops, trainer.should_stop = self.counter.get_total_flops(), True

    def found(self) -> dict[str, float]:
        """The median, and the operations of one more step."""
        return {"seconds": statistics.median(self.seconds[self.warm_up : -1]), "flops": self.flops}


def llama(size: Size) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = max(size.width // 32, 1)
    config = LlamaConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def loader(size: Size, number: int, seed: int) -> DataLoader[Any]:
    """Rows of random tokens without padding, three quarters of each supervised."""
    tokens = torch.randint(size.vocabulary, (number, size.tokens), generator=torch.Generator().manual_seed(seed))
    labels = tokens.clone()
    labels[:, : size.tokens // 4] = -100
    rows = [
        {"input_ids": t, "attention_mask": torch.ones_like(t), "labels": own}
        for t, own in zip(tokens, labels, strict=True)
    ]
    return DataLoader(rows, batch_size=size.rows)


def plain_step(size: Size) -> dict[str, float]:
    """Fine-tuning by hand on as many rows: two batches, one optimizer step."""
    model, clock = llama(size).train(), Clock(2, TIMED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batches = [next(iter(loader(size, size.rows, seed))) for seed in (1, 2)]
    stop = type("Stop", (), {"should_stop": False})()
    while not stop.should_stop:
        clock.on_train_batch_start()
        for batch in batches:
            model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.on_train_batch_end(stop)
    return clock.found()


def our_step(size: Size) -> dict[str, float]:
    """NPO through the Trainer; with directions, a guard that corrects every step, timed once its history is full."""
    guard = [StepGuard(NoChange(), History(size.directions))] if size.directions else []
    clock = Clock(2 + size.directions, TIMED)
    trainer = pl.Trainer(
        max_epochs=-1, callbacks=[Unlearn(NPO()), *guard, clock], gradient_clip_val=1.0, accelerator="cpu", **QUIET
    )
    module = UnlearningModule(llama(size), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True))
    retain, forget = loader(size, 40 * size.rows, 1), loader(size, 2 * size.rows, 2)
    trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget, order=SequentialOrder()))
    return clock.found()


def check(size: Size) -> dict[str, float]:
    """A look at a model, alone and under attacks that round its weights."""

    class Timed(RecoveryCheck):
        seconds = 0.0

        def check(self, trainer: Any, pl_module: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                start = time.process_time()
                values = super().check(trainer, pl_module)
                self.seconds, self.flops = time.process_time() - start, counter.get_total_flops()
            return values

    attacks = {f"int{bits}": Quantize(bits=bits) for bits in BITS[: size.attacks]}
    looks = []
    for _ in range(LOOKS):
        probes = {"forget": loader(size, size.probes, 1), "retain": loader(size, size.probes, 2)}
        one = Timed(attacks, [Measure({"probability": AnswerProbability()})], probes=probes)
        trainer = pl.Trainer(accelerator="cpu", callbacks=[one], limit_val_batches=1, **QUIET)
        trainer.validate(UnlearningModule(llama(size)), loader(size, size.rows, 3), verbose=False)
        looks.append(one)
    return {"seconds": statistics.median(look.seconds for look in looks), "flops": looks[-1].flops}


WAYS: dict[str, Callable[[Size], dict[str, float]]] = {"plain": plain_step, "ours": our_step, "check": check}


def measured(way: str, size: Size) -> dict[str, float]:
    """Of one point, in a process whose peak of memory is started anew."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory kept from the last point would be used again, and count for nobody
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _kilobytes("VmRSS")
    found = WAYS[way](size)
    found["gigabytes"] = (_kilobytes("VmHWM") - before) / 2**20
    return found


def _kilobytes(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))
