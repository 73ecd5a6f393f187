from __future__ import annotations

from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from typing_extensions import override

from lightning_unlearn.engine import strategy_kind
from lightning_unlearn.readouts import CausalLMReadout
from lightning_unlearn.runtime import writable_folder


class SavePretrained(pl.Callback):
    """Write the unlearned language model as a Hugging Face folder when the fit ends.

    ``AutoModelForCausalLM.from_pretrained(folder)`` (or PEFT, for an adapter) loads it back, under its usual keys.

    Args:
        folder: Where the files go; it is made if need be.
        merge_adapter: Fold a PEFT adapter into the base weights first, on a copy, so that a plain model is written.

    Raises:
        OSError: In ``setup``, if the folder cannot be written. When the fit is over and all other callbacks have done their
            work, if the network could not be written.
    """

    def __init__(self, folder: str, merge_adapter: bool = False) -> None:
        self.folder = folder
        self.merge_adapter = merge_adapter
        self._failure: Exception | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out now, not after hours of training, whether the folder can be written."""
        if stage == "fit" and trainer.is_global_zero:
            writable_folder(self.folder)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the weights, if they are sharded, and write."""
        network = CausalLMReadout().find_network(pl_module)
        sharded = strategy_kind(trainer) == "fsdp2"
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        # Gathering shards is collective: every rank has to take part, although only the first one writes.
        state = get_model_state_dict(network, options=options) if sharded else None
        if not trainer.is_global_zero:
            return
        try:
            self._write(network, state)
        except Exception as error:  # raised in `teardown`: here it would keep the callbacks after this one from writing
            self._failure = error

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Say that the network could not be written, now that everything else was."""
        failure, self._failure = self._failure, None
        if failure is None:
            return
        try:
            # An error ends Lightning's loop over callbacks. Those behind this one have things to write, too.
            callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            for callback in callbacks[callbacks.index(self) + 1 :]:
                callback.teardown(trainer, pl_module, stage)
        finally:
            raise OSError(
                f"`SavePretrained` should have written the network to `{self.folder}`. Found {type(failure).__name__}: "
                f"{failure} What is there is not whole. The network is still in memory, as it was at the end of the "
                "fit, and in the last checkpoint, if there is one: make room, or choose another folder, and call "
                "`network.save_pretrained(folder)`."
            ) from failure

    def _write(self, network: Any, state: dict[str, Any] | None) -> None:
        if not self.merge_adapter or not hasattr(network, "merge_and_unload"):
            network.save_pretrained(self.folder, state_dict=state)
            return
        # On a copy: merging into the live network and unmerging again would round its weights.
        deepcopy(network).merge_and_unload().save_pretrained(self.folder)
