from __future__ import annotations

import os
from typing import Any

import lightning.pytorch as pl
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from typing_extensions import override

from lightning_unlearn.budgets import DisruptionBudget
from lightning_unlearn.callbacks._apply_edit import ApplyEdit
from lightning_unlearn.engine import callbacks_of, strategy_kind
from lightning_unlearn.finetuning import FinetuneFirst
from lightning_unlearn.models import merged, refuse_other_adapter, refuse_other_form, refuse_other_weights, savable
from lightning_unlearn.models.adapters import refuse_merging
from lightning_unlearn.models.layers import base_model
from lightning_unlearn.readouts import CausalLMReadout, is_language_model
from lightning_unlearn.runtime import writable_folder


class SavePretrained(pl.Callback):
    """Write the unlearned language model as a Hugging Face folder when the fit ends.

    ``AutoModelForCausalLM.from_pretrained(folder)`` loads it back, under its usual keys, and ``PretrainedCausalLM(folder)``
    an adapter with its base. The tokenizer of the data is written beside it. The weights are those that the fit hands back:
    an edit at its end, and a :class:`DisruptionBudget`, come before, wherever they stand in the list.

    What was written is loaded back and compared with the network, weight by weight; a merged adapter also by what it
    says to a few tokens, if it reads tokens. A head that is no longer tied to the embeddings, as after merging an adapter of
    one of them, becomes a head of its own. A base in few bits is dequantised and merged without rounding again: the folder
    then says what the network says but for the rounding of inputs that int8 layers do.

    Args:
        folder: Where the files go; it is made if need be.
        merge_adapter: Fold a PEFT adapter into the base weights first, on a copy, so that a plain model is written.
        max_shard_size: Of one file of weights, such as ``"5GB"``. Defaults to that of transformers.

    Raises:
        ValueError: In ``setup``, if an adapter cannot be merged, or is to be written without a base that
            :class:`FinetuneFirst` has changed; if a whole model is in the folder of an adapter, or the reverse.
        OSError: In ``setup``, if the folder cannot be written. When the fit is over and all other callbacks have done their
            work, if the network could not be written, or what was written is not the network. Where it is merging that
            failed, the adapter is in the folder.
    """

    def __init__(self, folder: str, merge_adapter: bool = False, max_shard_size: str | None = None) -> None:
        self.folder = os.path.expanduser(folder)
        self.merge_adapter = merge_adapter
        self.max_shard_size = max_shard_size
        self._failure: Exception | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out now, not after hours of training, whether the folder can be written."""
        if stage != "fit":
            return
        if trainer.is_global_zero:
            writable_folder(self.folder)
        refuse_merging(pl_module)
        network: Any = _network(pl_module)  # none yet, if it is built in `configure_model`
        if hasattr(network, "peft_config"):
            self._refuse_adapter(trainer, network)
        self._refuse_other_form(trainer, network)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out whether the folder can be used for a network that was built since."""
        self._refuse_other_form(trainer, _network(pl_module))

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the weights, if they are sharded, and write."""
        # Wherever they stand in the list, the folder holds what the fit hands back. A second call of them does nothing.
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ApplyEdit | DisruptionBudget):
                callback.on_fit_end(trainer, pl_module)
        network: Any = _network(pl_module)
        if network is None:
            network = CausalLMReadout().find_network(pl_module)  # which says what should be there
        sharded = strategy_kind(trainer) == "fsdp2"
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        # Gathering shards is collective: every rank has to take part, although only the first one writes.
        state = get_model_state_dict(network, options=options) if sharded else None
        if not trainer.is_global_zero:
            return
        try:
            self._write(network, state)
            if (tokenizer := _tokenizer(trainer)) is not None:
                tokenizer.save_pretrained(self.folder)
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

    def _refuse_adapter(self, trainer: pl.Trainer, network: Any) -> None:
        if self.merge_adapter and not hasattr(network, "merge_and_unload"):
            raise ValueError(
                "`merge_adapter` should be for an adapter of the weights. Found one that has none: "
                f"`{type(network.active_peft_config).__name__}`. Leave `merge_adapter` out."
            )
        if not self.merge_adapter and any(c.taught_base for c in callbacks_of(trainer, FinetuneFirst)):
            raise ValueError(
                "An adapter should be written beside the base that it names. Found that `FinetuneFirst` has fine-tuned the "
                "base, which is in no folder. Set `merge_adapter=True`."
            )

    def _refuse_other_form(self, trainer: pl.Trainer, network: Any) -> None:
        if trainer.is_global_zero and network is not None:
            refuse_other_form(self.folder, adapter=hasattr(network, "peft_config") and not self.merge_adapter)

    def _write(self, network: Any, state: dict[str, Any] | None) -> None:
        if not hasattr(network, "peft_config"):
            self._write_whole(network, state)
        elif self.merge_adapter:
            self._write_merged(network, state)
        else:
            self._write_adapter(network, state)

    def _write_merged(self, network: Any, state: dict[str, Any] | None) -> None:
        try:
            # On a copy: merging into the live network and unmerging again would round its weights.
            plain = merged(network)
        except Exception:
            self._write_adapter(network, state)  # so that nothing is lost
            raise
        self._write_whole(plain, None)

    def _write_adapter(self, network: Any, state: dict[str, Any] | None) -> None:
        with savable(network.get_base_model()):
            network.save_pretrained(self.folder, state_dict=None if state is None else dict(state))
        if hasattr(network, "merge_and_unload"):
            refuse_other_adapter(self.folder, network, state)

    def _write_whole(self, wrapped: Any, state: dict[str, Any] | None) -> None:
        network: Any = base_model(wrapped)
        if not hasattr(network, "from_pretrained"):  # somebody's own class
            network.save_pretrained(self.folder, state_dict=state)
            return
        sizes = {} if self.max_shard_size is None else {"max_shard_size": self.max_shard_size}
        with savable(network):
            # A copy: transformers empties what it has written.
            network.save_pretrained(self.folder, state_dict=None if state is None else dict(state), **sizes)
        refuse_other_weights(self.folder, network, state)


def _network(module: pl.LightningModule) -> nn.Module | None:
    """The outermost model of PEFT or Hugging Face: an encoder with a decoder can be written as well."""
    return next((part for part in module.modules() if is_language_model(part)), None)


def _tokenizer(trainer: pl.Trainer) -> Any:
    """That of the retain data, or else of the forget data, if rows are encoded by one."""
    data: Any = getattr(trainer, "datamodule", None)
    for source in (data, *(getattr(getattr(data, part, None), "source", None) for part in ("retain", "forget"))):
        if (tokenizer := getattr(getattr(source, "encoding", None), "tokenizer", None)) is not None:
            return tokenizer
    return None
