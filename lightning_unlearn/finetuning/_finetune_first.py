from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader
from typing_extensions import override

from lightning_unlearn.data import in_order
from lightning_unlearn.engine import decided_readout
from lightning_unlearn.finetuning._kept_weights import KeptWeights
from lightning_unlearn.finetuning._recipe import Recipe, learns_in_base
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.models import loads_low_bit
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import checksum, on_every_rank, writable_folder


class FinetuneFirst(pl.Callback):
    """Fine-tune the network on forget and retain data first, so that there is something to forget: for demos and benchmarks.

    It runs in ``setup``. List it first: other callbacks may copy the network in theirs, as ``WeightAveraging`` does. A
    PEFT adapter that adds nothing yet stays off: the base is fine-tuned, and then is the original. If the base is in few
    bits (``quantization="nf4"``), or the adapter is trained already, the adapter is fine-tuned, and the original is both
    together: then the reference is a cache or a copy. The result depends on the seed alone, so a resumed run has the
    same original. With ``folder`` the result is kept, under a hash of weights, data and settings,
    readable by its owner alone. A file that is damaged or of another origin is named in a warning, and made anew.

    With ``control``, the same start is also fine-tuned on the retain data alone, by the same recipe. That model never knew
    what must go: its weights are the control of every :class:`RecoveryCheck` in the trainer. The network that is fitted is
    the same with and without a control.

    Args:
        epochs: Passes over the data.
        lr: Highest learning rate of AdamW; it rises over the first tenth of the steps and falls to zero over the rest.
        batch_size: Rows per step.
        folder: Where the fine-tuned weights are kept.
        seed: Seed of the order of the data.
        control: Whether to make a control, too; without ``folder`` its weights stay in main memory.

    Attributes:
        control_weights: The control, as a path or as tensors by name; ``None`` if there is none.
        control_source: Where it comes from, in words.
        taught_base: Whether the base of an adapter was fine-tuned, and not the adapter.

    Raises:
        ValueError: In ``setup``, if the datamodule does not say what is to be forgotten.
        OSError: In ``setup``, if the folder cannot be written.
    """

    control_source = "the same start, fine-tuned on the retain data alone in the same way"

    def __init__(
        self,
        epochs: int = 10,
        lr: float = 1e-3,
        batch_size: int = 16,
        folder: str | None = None,
        seed: int = 0,
        control: bool = False,
    ) -> None:
        check_whole("epochs", epochs)
        check_positive("lr", lr)
        check_whole("batch_size", batch_size)
        self.recipe = Recipe(epochs, lr, seed)
        self.batch_size, self.folder, self.control = batch_size, folder, control
        self.control_weights: str | dict[str, Tensor] | None = None
        self.taught_base = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Fine-tune, or load the result of an earlier run."""
        if stage != "fit":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "forget_dataloader") or not hasattr(data, "probe_dataloaders"):
            raise ValueError(
                f"`FinetuneFirst` should find a `ForgetRetainData`. Found "
                f"`{type(data).__name__}`. Use `trainer.fit(..., datamodule=...)`."
            )
        if self.folder is not None and trainer.is_global_zero:
            writable_folder(self.folder)  # fail now, not after fine-tuning
        forget, retain = in_order(data.forget_dataloader()), in_order(data.retain.loader())
        # Lightning moves the module to its device only after `setup`.
        pl_module.to(trainer.strategy.root_device)
        readout = decided_readout(trainer, pl_module, spare=lambda: retain)
        network = readout.find_network(pl_module)
        self.taught_base = learns_in_base(network)
        handle = loads_low_bit(network)
        try:
            if self.control:  # first, from the same start, which it leaves as it was
                self.control_weights = self._made_control(trainer, network, readout, self._loader([retain]))
            loader = self._loader([forget, retain])
            self._teach_(trainer, network, readout, loader, "taught", "Teaching what is to go, and what is to stay")
        finally:
            handle.remove()

    def _made_control(
        self, trainer: pl.Trainer, network: nn.Module, readout: Readout, loader: DataLoader[Any]
    ) -> str | dict[str, Tensor]:
        start = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        kept = self._teach_(trainer, network, readout, loader, "control", "Teaching a control what is to stay")
        made = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(start)
        # Not there on a rank of another machine, or where the disk is full.
        return str(kept) if kept is not None and kept.exists() else made

    def _teach_(
        self,
        trainer: pl.Trainer,
        network: nn.Module,
        readout: Readout,
        loader: DataLoader[Any],
        name: str,
        title: str,
    ) -> Path | None:
        """Fine-tune in place, or load the weights of an earlier run. Returns the file where they are kept, if any."""
        kept = self._kept_in(network, readout, loader, name)
        found = None if kept is None else kept.find()
        # Together: should one rank have to make the weights, all of them make the same.
        if kept is not None and all(path is not None for path in on_every_rank(found)):
            assert found is not None
            kept.load_(network, found)
            rank_zero_info(f"`FinetuneFirst` found what it taught before in {found}.")
            return found
        self.recipe.finetune_(network, readout, loader, trainer, title)
        saved = kept.save(network) if kept is not None and trainer.is_global_zero else None
        of_the_first: Path | None = on_every_rank(saved)[0]
        return of_the_first

    def _loader(self, loaders: list[Any]) -> DataLoader[Any]:
        return DataLoader(
            ConcatDataset([loader.dataset for loader in loaders]),
            batch_size=self.batch_size,
            shuffle=True,
            collate_fn=loaders[0].collate_fn,
            generator=torch.Generator().manual_seed(self.recipe.seed),
        )

    def _kept_in(self, network: nn.Module, readout: Readout, loader: DataLoader[Any], name: str) -> KeptWeights | None:
        if self.folder is None:
            return None
        recipe = self.recipe
        # Everything that decides the result: the start, the recipe, and the content of the data.
        settings = f"{checksum(network)} {recipe.epochs} {recipe.lr} {self.batch_size} {recipe.seed}"
        digest = blake2b(settings.encode(), digest_size=8)
        for batch in in_order(loader):
            digest.update("".join(readout.keys(batch)).encode())
        return KeptWeights(Path(self.folder).expanduser(), f"{name}-{digest.hexdigest()}")
