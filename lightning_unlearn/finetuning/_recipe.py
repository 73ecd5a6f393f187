from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_unlearn.models import moved_from_start, start_again_
from lightning_unlearn.models.layers import in_adapter, is_low_bit
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.prediction import with_router_loss
from lightning_unlearn.readouts import Readout, read_for_a_loss, refuse_foreign_tokens
from lightning_unlearn.runtime import Progress, ProgressBar, ProgressLines, can_be_fused, someone_looks_on


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned: AdamW, its rate rising over the first tenth of the steps and falling to zero.

    Args:
        epochs: Passes over the data.
        lr: Highest learning rate.
        seed: Of random draws in training, such as dropout. The order of the data is the loader's.
    """

    epochs: int
    lr: float
    seed: int

    def finetune_(
        self,
        network: nn.Module,
        readout: Readout,
        loader: DataLoader[tuple[object, ...]],
        trainer: pl.Trainer,
        title: str,
    ) -> None:
        """Fine-tune ``network`` in place, on the device and in the precision of ``trainer``."""
        # A plain loop, since the strategy has not wrapped the network yet. Every process goes through all of the data, in
        # the same order and with the same seed, and so makes the same weights.
        objective, readout = CrossEntropy(), readout.for_mean()
        total, words = self.epochs * len(loader), title
        with (
            torch.random.fork_rng(),
            torch.enable_grad(),
            _trained(network) as params,
            _shown(trainer, title) as progress,
        ):
            progress.plan(total)
            torch.manual_seed(self.seed)
            network.train()
            optimizer = torch.optim.AdamW(
                params, lr=self.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=can_be_fused(params)
            )
            schedule = self._schedule(optimizer, total)
            batches = (batch for _ in range(self.epochs) for batch in loader)
            for number, batch in enumerate(batches, start=1):
                refuse_foreign_tokens(network, batch)
                on_device = trainer.strategy.batch_to_device(batch, device=trainer.strategy.root_device)
                with trainer.precision_plugin.forward_context(), read_for_a_loss():
                    prediction = readout(network, on_device)
                    loss = with_router_loss(objective(prediction), prediction)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if number % len(loader) == 0:  # not at every step: a device is waited for
                    words = f"{title}, loss {float(loss.detach()):.3f}"
                progress.at(number, words)
        rank_zero_info(f"`FinetuneFirst`: {words} after {total} steps.")

    def _schedule(self, optimizer: torch.optim.Optimizer, total: int) -> torch.optim.lr_scheduler.LRScheduler:
        # `OneCycleLR` divides by the length of a phase less one: the rate has to rise for two steps at least.
        steps = max(total, 4)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.lr,
            total_steps=steps,
            pct_start=max(0.1, 2 / steps),
            anneal_strategy="linear",
            cycle_momentum=False,
        )


def _shown(trainer: pl.Trainer, title: str) -> Progress:
    """A bar where the fit has one, and somebody sees it; elsewhere a line a minute."""
    wanted = trainer.progress_bar_callback is not None and trainer.is_global_zero
    return ProgressBar(title) if wanted and someone_looks_on() else ProgressLines(rank_zero_info)


def learns_in_base(network: nn.Module) -> bool:
    """Whether it is the base that is fine-tuned, under an adapter that adds nothing yet.

    A base in few bits cannot be trained, and what an adapter was trained on, or has taken a part of, must not move.
    """
    adapted = hasattr(network, "disable_adapter") and not any(is_low_bit(p) for p in network.parameters())
    return adapted and not any(moved_from_start(network))


@contextmanager
def _trained(network: nn.Module) -> Iterator[list[Tensor]]:
    """The weights to train: those of the base, with the adapter off, or all that are trainable."""
    in_base = learns_in_base(network)
    flags = [(p, p.requires_grad) for p in network.parameters()]
    with network.disable_adapter() if in_base else nullcontext():  # type: ignore[operator]
        for name, p in network.named_parameters():
            if in_base:
                p.requires_grad_(not in_adapter(name))
        try:
            yield [p for p in network.parameters() if p.requires_grad]
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
            if in_base:
                start_again_(network)
