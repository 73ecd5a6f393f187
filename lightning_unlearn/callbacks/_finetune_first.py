from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader
from typing_extensions import override

from lightning_unlearn.callbacks._folders import writable_folder
from lightning_unlearn.data import in_order
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.runtime import checksum


class FinetuneFirst(pl.Callback):
    """Fine-tune the network on forget and retain data first, so that there is something to forget: for demos and benchmarks.

    Runs in ``setup``, before any other callback looks at the network, so list it first. A PEFT adapter stays off: what
    is taught goes into the base, which then is the original. Deterministic in its seed, so a resumed run has the same
    original; with ``folder``, what was taught is kept, and found again by content of weights, data and settings.

    Args:
        epochs: Passes over the data.
        lr: Highest learning rate of AdamW; it rises over the first tenth of the steps and falls to zero over the rest.
        batch_size: Rows a step.
        folder: Where the taught weights are kept.
        seed: Seed of the order of the data.

    Raises:
        ValueError: In ``setup``, if the datamodule does not say what is to be forgotten.
        OSError: In ``setup``, if the folder cannot be written.
    """

    def __init__(
        self, epochs: int = 10, lr: float = 1e-3, batch_size: int = 16, folder: str | None = None, seed: int = 0
    ) -> None:
        if epochs < 1 or lr <= 0 or batch_size < 1:
            raise ValueError(
                "`epochs` and `batch_size` should be at least 1, `lr` positive. Found "
                f"`epochs = {epochs}`, `batch_size = {batch_size}`, `lr = {lr}`."
            )
        self.epochs, self.lr, self.batch_size, self.folder, self.seed = epochs, lr, batch_size, folder, seed

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Teach, or load what was taught before."""
        if stage != "fit":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "forget_dataloader") or not hasattr(data, "probe_dataloaders"):
            raise ValueError(
                f"`FinetuneFirst` should find a `ForgetRetainData`. Found "
                f"`{type(data).__name__}`. Use `trainer.fit(..., datamodule=...)`."
            )
        if self.folder is not None and trainer.is_global_zero:
            writable_folder(self.folder)  # found out now, not after teaching
        readout = choose_readout(pl_module)
        network = readout.find_network(pl_module).to(trainer.strategy.root_device)
        loader = self._loader([in_order(data.forget_dataloader()), in_order(data.retain.loader())])
        kept = self._kept_in(network, readout, loader)
        if kept is not None and kept.exists():
            load_model(network, kept)
            rank_zero_info(f"`FinetuneFirst` found what it taught before in {kept}.")
            return
        self._teach(trainer, network, readout, loader)
        if kept is not None and trainer.is_global_zero:
            save_model(network, str(kept))

    def _loader(self, loaders: list[Any]) -> DataLoader[Any]:
        return DataLoader(
            ConcatDataset([loader.dataset for loader in loaders]),
            batch_size=self.batch_size,
            shuffle=True,
            collate_fn=loaders[0].collate_fn,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _kept_in(self, network: nn.Module, readout: Readout, loader: DataLoader[Any]) -> Path | None:
        if self.folder is None:
            return None
        settings = f"{checksum(network)} {self.epochs} {self.lr} {self.batch_size} {self.seed}"
        digest = blake2b(settings.encode(), digest_size=8)
        for batch in in_order(loader):
            digest.update("".join(readout.keys(batch)).encode())
        return Path(self.folder) / f"taught-{digest.hexdigest()}.safetensors"

    def _teach(self, trainer: pl.Trainer, network: nn.Module, readout: Readout, loader: DataLoader[Any]) -> None:
        objective = CrossEntropy()
        total = self.epochs * len(loader)
        with torch.random.fork_rng(), _base_trainable(network) as params:
            torch.manual_seed(self.seed)
            network.train()
            optimizer = torch.optim.AdamW(params, lr=self.lr, betas=(0.9, 0.95), weight_decay=0.0)
            # Rising takes two steps at least, else the schedule divides by none.
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                self.lr,
                total_steps=max(total, 4),
                pct_start=max(0.1, 2 / max(total, 4)),
                anneal_strategy="linear",
                cycle_momentum=False,
            )
            steps = (batch for _ in range(self.epochs) for batch in loader)
            quiet = not trainer.is_global_zero
            shown = track(steps, "Teaching what is to go, and what is to stay", total=total, disable=quiet)
            for number, batch in enumerate(shown, start=1):
                on_device = trainer.strategy.batch_to_device(batch, device=trainer.strategy.root_device)
                with trainer.precision_plugin.forward_context():
                    loss = objective(readout(network, on_device))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if number % len(loader) == 0:
                    rank_zero_info(f"`FinetuneFirst`: step {number} of {total}, loss {float(loss.detach()):.4f}.")


@contextmanager
def _base_trainable(network: nn.Module) -> Iterator[list[Tensor]]:
    """What there is to teach: with an adapter, the base weights, the adapter being off; else all that is trainable."""
    adapted = hasattr(network, "disable_adapter")
    flags = [(p, p.requires_grad) for p in network.parameters()]
    with network.disable_adapter() if adapted else nullcontext():  # type: ignore[operator]
        for name, p in network.named_parameters():
            if adapted and p.is_floating_point():
                p.requires_grad_("lora_" not in name)
        try:
            yield [p for p in network.parameters() if p.requires_grad]
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
