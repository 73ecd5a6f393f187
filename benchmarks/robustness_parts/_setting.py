from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Self

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn

from lightning_unlearn import Encoding, InMemoryRecords, LoaderSettings, QuestionAnswerData
from robustness_parts._criterion import KEEP

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class World:
    """Who is taught, and who must be forgotten, in rows with a question, an answer and an entity.

    Args:
        forget: What must go, and is judged.
        paraphrase: The same facts in other words, row by row.
        retain: What must stay, and is shown.
        unseen: What was taught and is never shown again.
        neutral: What disruption is measured on: neither shown nor judged.
        benign: What an attacker trains on who has none of the facts.
    """

    forget: Rows
    paraphrase: Rows
    retain: Rows
    unseen: Rows
    neutral: Rows
    benign: Rows

    @property
    def half(self) -> Rows:
        """Every other fact, to relearn from; the rest is judged."""
        return self.forget[::2]

    @property
    def looked_at(self) -> Rows:
        """Of what must stay, that of which it is asked whether it is known."""
        return self.retain


@dataclass(frozen=True, eq=False)  # told apart by what they are, since mappings have no hash
class Setting:
    """A network, what it is taught, and how long it unlearns and is attacked.

    Args:
        name: Of the setting, and of its results.
        network: From a seed to the network before it is taught.
        encoding: From nothing to how rows become tokens.
        worlds: ``"test"``, and ``"tune"`` with other entities.
        teach: Arguments of ``FinetuneFirst``.
        batch: Forget and retain rows a step.
        steps: Of forgetting.
        rates: Learning rates to tune over; as many trials for every method.
        kl: The disruption budget, in nats a token.
        every: Steps between two looks at the budget.
        names: What ``$name`` in a method stands for.
        panel: Which judges sit.
        clip: Largest norm of a gradient.
        precision: Of fits and attacks on an accelerator. On the CPU both are in float32, unless another is asked for.
        seconds: Of one step of training on a core, for the estimate.
        device: Where fits and attacks run.
        keep: The share of the retain probability that a rate must leave; ``None`` weighs it against the attacker's lead.
    """

    name: str
    network: Callable[[int], nn.Module]
    encoding: Callable[[], Encoding]
    worlds: Mapping[str, Callable[[], World]]
    teach: Mapping[str, Any]
    batch: tuple[int, int]
    steps: int
    rates: tuple[float, ...]
    kl: float
    every: int
    names: Mapping[str, Any]
    panel: str = "whole"
    clip: float | None = None
    precision: str = "32-true"
    seconds: float = 0.05
    device: str = "cpu"
    keep: float | None = KEEP

    def on(self, device: str, precision: str | None = None) -> Self:
        """The same setting on a device, in a precision."""
        # bfloat16 takes three times as long as float32 on a CPU without units for it, and more when it is shared.
        usual = "32-true" if device == "cpu" else self.precision
        return replace(self, device=device, precision=precision or usual)

    def mixed(self) -> AbstractContextManager[None]:
        """The precision of attacks, and of what is asked."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def world(self, name: str) -> World:
        """A world, made once."""
        made: World = _made(self.worlds[name])
        return made

    def numbers(self) -> dict[str, Any]:
        """Everything that decides a result, but for the seeds and the method."""
        fields = ("name", "teach", "batch", "steps", "rates", "kl", "every", "clip", "precision")
        return {
            **{name: getattr(self, name) for name in fields},
            # Other devices round in other ways. Names of results on the CPU are older than this line.
            **({} if self.device == "cpu" else {"device": self.device}),
            **{name: asdict(self.world(name)) for name in self.worlds},
        }

    def start(self, seed: int) -> nn.Module:
        """The network before it is taught, on the CPU."""
        # To read a pretrained one takes seconds, and each unit of work wants it anew.
        return deepcopy(_network(self.network, seed))

    def batches(self, rows: Rows, *, size: int | None = None) -> Iterator[Any]:
        """Rows as batches on the device, in order."""
        for batch in self.data(rows, size=size).val_dataloader():
            yield move_data_to_device(batch, self.device)

    def data(self, rows: Rows, *, size: int | None = None, seed: int = 0) -> QuestionAnswerData:
        """Rows as batches, of the size of forget batches if no other is given."""
        loader = LoaderSettings(batch_size=size or self.batch[0], seed=seed)
        data = QuestionAnswerData(InMemoryRecords(rows, entity="entity"), _made(self.encoding), loader)
        data.setup("fit")
        return data


@cache
def _network(make: Callable[[int], nn.Module], seed: int) -> nn.Module:
    return make(seed)


@cache
def _made(make: Callable[[], Any]) -> Any:
    return make()
