"""The LightningModule for people who have only a network."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import OwnPass, SharedPass, before_restore, strategy_kind, taken_pass
from lightning_unlearn.models import loads_low_bit
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.prediction import with_router_loss
from lightning_unlearn.readouts import CausalLMReadout, Readout, choose_readout, is_language_model, read_for_a_loss
from lightning_unlearn.references import AdapterDisabled, FrozenCopy, Reference, why_adapter_is_not_enough
from lightning_unlearn.runtime import EitherPackage

_PREFIX = "network."
_REFERENCE = "reference of UnlearningModule"


class UnlearningModule(EitherPackage, pl.LightningModule):
    """Train a bare network on what must stay; ``Unlearn`` adds what must go.

    Checkpoints hold the network's own keys, without a prefix: ``network.load_state_dict(torch.load(path)["state_dict"])``
    works without this class. So does ``network.save_pretrained``.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter, a torchvision model, any module.
        readout: How to run it. Defaults to :class:`PackedCausalLMReadout` for a causal language model,
            :class:`EncoderDecoderReadout` for an encoder-decoder, else to :class:`ClassificationReadout`.
        retain: What training on the retain data minimises. Defaults to :class:`CrossEntropy`.
        reference: Where the original model's predictions come from, if ``retain`` needs them, as :class:`KLToReference`
            does. Defaults to the adapter switched off, if that gives the original, and else to a frozen copy.
        retain_readout: How to run it for ``retain``, if that needs a readout of its own: :class:`ActivationMatch` needs
            hidden states, which measurements cannot use. Defaults to ``readout``.
        optimizer: From parameters to an optimizer.
        scheduler: From an optimizer to a learning-rate scheduler, stepped after every optimizer step.

    Example:
        >>> module = UnlearningModule(nn.Linear(3, 2, bias=False))
        >>> round(module.training_step((torch.zeros(2, 3), torch.tensor([0, 1])), 0).item(), 1)
        0.7
    """

    def __init__(
        self,
        network: nn.Module,
        readout: Readout | None = None,
        retain: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        reference: Reference | None = None,
        retain_readout: Readout | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.readout = choose_readout(network) if readout is None else readout
        if isinstance(self.readout, CausalLMReadout) and is_language_model(network):
            self.readout.find_network(network)  # now, and not in `setup`: one that looks ahead is no language model
        self.retain_readout = self.readout if retain_readout is None else retain_readout
        self.retain = CrossEntropy() if retain is None else retain
        self.reference = reference
        self._chooses_reference = reference is None
        self.optimizer = optimizer
        self.scheduler = scheduler
        self._saw_original = False
        self._restored_reference: dict[str, Any] | None = None
        self._watch: Any = None
        loads_low_bit(self)

    @override
    def setup(self, stage: str) -> None:
        """Attach the reference while the network is the original, in case that a checkpoint is restored after this."""
        self._restored_reference = None
        self._end_watch()
        if self._trainer is None or not self.trainer.strategy.restore_checkpoint_after_setup:
            self._see_original()
            if self._trainer is not None and stage == "fit":
                self._watch = before_restore(self.trainer, self, self._see_original)

    @override
    def on_fit_start(self) -> None:
        """The same for strategies that restore a checkpoint after sharding: their parameters are complete only now."""
        self._end_watch()
        if self.trainer.strategy.restore_checkpoint_after_setup:
            self._see_original()

    @override
    def on_train_start(self) -> None:
        """Attach the reference to what the fit really starts from, unless an interrupted fit goes on.

        That is a checkpoint of any origin, or weights that a callback has loaded since ``setup``.
        """
        if self._restored_reference is None:
            self._see_original()
        elif self.reference is not None and self._restored_reference:
            self.reference.load_state_dict(self._restored_reference)
        # A second fit goes on from the first; the original stays what it was.
        self._saw_original, self._restored_reference = True, None

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own output."""
        return self.network(*args, **kwargs)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The retain loss, logged as ``retain_loss``."""
        return self._loss(batch, "retain_loss", taken_pass(self))

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The retain loss, logged as ``val_loss``."""
        return self._loss(batch, "val_loss", OwnPass())

    @override
    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The retain loss, logged as ``test_loss``."""
        return self._loss(batch, "test_loss", OwnPass())

    @override
    def configure_optimizers(self) -> Any:
        """The optimizer of all trainable parameters, and its scheduler."""
        optimizer = self.optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the network's own keys.

        A strategy that shards keeps the module's keys: it loads the state by name, before :meth:`on_load_checkpoint`.
        """
        if self.reference is not None and self._saw_original:
            checkpoint[_REFERENCE] = self.reference.state_dict()
        elif self._restored_reference is not None:
            checkpoint[_REFERENCE] = self._restored_reference
        if self._trainer is not None and self.trainer.strategy.restore_checkpoint_after_setup:
            return
        checkpoint["state_dict"] = {k.removeprefix(_PREFIX): v for k, v in checkpoint.get("state_dict", {}).items()}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the network's own keys, or those of a sharded run."""
        if _REFERENCE not in checkpoint:
            self._saw_original = False  # of another origin, or of before training: its weights are an original
        elif not self._saw_original:
            self._restored_reference = checkpoint[_REFERENCE]
        # A strategy that shards has loaded the state already, and has taken it out of the checkpoint.
        state = checkpoint.get("state_dict", {})
        own = self.state_dict() if state else {}
        # Keys with the prefix need no change: they are those of a sharded run.
        if set(state) <= set(own):
            return
        outside = {k for k in own if not k.startswith(_PREFIX)}  # state of the retain objective
        checkpoint["state_dict"] = {k if k in outside else _PREFIX + k: v for k, v in state.items()}

    def keep_original(self, parameter: nn.Parameter) -> None:
        """An edit is about to change ``parameter``: the reference keeps what it was."""
        if self.reference is not None and self.retain.needs_reference:
            self.reference.keep(parameter)

    def _see_original(self) -> None:
        if not self.retain.needs_reference or self._saw_original:
            return
        if self._chooses_reference:
            kind = AdapterDisabled if why_adapter_is_not_enough(self.network) is None else FrozenCopy
            self.reference = self.reference if type(self.reference) is kind else kind()
        assert self.reference is not None
        # A cache is filled by sweeping the forget data, and knows no retain batch.
        if self.reference.needs_sweep:
            raise ValueError(
                "`reference` should know the original's view of any retain batch. Found "
                f"`{type(self.reference).__name__}`, which caches forget data only. Use `FrozenCopy()`."
            )
        if (
            isinstance(self.reference, FrozenCopy)
            and self._trainer is not None
            and strategy_kind(self.trainer) == "fsdp1"
        ):
            raise NotImplementedError(
                "`FrozenCopy` should be able to swap weights in place. Found `FSDPStrategy` (FSDP1), whose flat parameters "
                "do not show it. Use `ModelParallelStrategy` (FSDP2), or LoRA with `AdapterDisabled()`."
            )
        self.reference.attach(self.network)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _loss(self, batch: Any, name: str, shared: SharedPass) -> Tensor:
        with read_for_a_loss():
            original = (
                self.reference(self.retain_readout, batch) if self.retain.needs_reference and self.reference else None
            )
            prediction: Any = shared.read(self.retain_readout, self.network, batch)
            loss = with_router_loss(self.retain(prediction, original), prediction)
        if self._trainer is not None:  # `log` warns if there is none, as in a call of `training_step` by hand
            self.log(name, loss, batch_size=prediction.batch_size)
        return shared.carry(loss)
