from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.data import DataSource, ForgetStream
from lightning_unlearn.engine import (
    GradientEngine,
    refuse_optimizers,
    strategy_kind,
    unscaled,
    unscales_by_itself,
)
from lightning_unlearn.forgetting._forget_source import forget_source
from lightning_unlearn.forgetting._merger import Merger
from lightning_unlearn.forgetting._overlap_check import OverlapCheck
from lightning_unlearn.forgetting._private_step import PrivateStep
from lightning_unlearn.forgetting._realised_step import RealisedStep
from lightning_unlearn.forgetting._refusals import refuse_empty_retain, refuse_truncated, refuse_unsupported
from lightning_unlearn.forgetting._supervision_check import SupervisionCheck
from lightning_unlearn.objectives import Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.references import FrozenCopy, Reference, choose_reference
from lightning_unlearn.runtime import data_share
from lightning_unlearn.transforms import StepChain


class Unlearn(pl.Callback):
    """Add the forget gradient to any fit, at the one place where the user's own gradient is ready.

    The user's ``training_step``, hooks, logs, optimizer and scheduler stay as they are; what their fit trains on is what
    is retained. Before each optimizer step, as many forget micro-batches as there were retain micro-batches are run
    through ``readout`` and ``objective``, and the two gradients merged. Clipping and the optimizer follow.

    Logged each step: ``unlearn/forget`` and ``unlearn/retain`` (the two losses); every ``log_every_n_steps`` also
    ``unlearn/forget_norm``, ``unlearn/retain_norm`` and ``unlearn/cosine`` of the two gradients, and ``unlearn/realised``,
    the length of the step the weights took over the length of the step the optimizer asked for, measured on one tensor:
    bf16 weights swallow small steps.

    With ``optimizer``, forgetting has an optimizer of its own. The user's then steps along the retain gradient alone, and
    its state never sees a forget gradient; the other one, over the same parameters, steps right after it along the forget
    gradient, which was taken at the weights before both. Where a gradient scaler skips the one it skips the other. Learning
    rate, momentum, decay are those ``optimizer`` is made with: the fit's clipping and scheduler do not concern it (it is
    ``forget_optimizer`` during the fit, for callbacks that schedule it). ``unlearn/realised`` is then of its step. Its state
    is in the checkpoint, gathered where it is sharded. A :class:`StepGuard` beside it acts on its step alone.

    Args:
        objective: What forgetting minimises.
        readout: How to run the network. Defaults to the module's own, to :class:`PackedCausalLMReadout` if it holds a
            Hugging Face language model, else to :class:`ClassificationReadout`.
        projector: How the two gradients are merged. Defaults to their sum. Not together with ``optimizer``.
        reference: Where the original model's view comes from, if the objective needs it. Defaults to the cheapest that
            serves: the adapter switched off, cached likelihoods, a frozen copy. The original is the network without its
            adapter, or, for the other two, as the fit finds it (a second fit anew, a resumed one not).
        weight: Factor on the forget gradient, positive.
        forget: What must go: a datamodule, a loader, a data set, or, from YAML, a mapping with ``class_path`` and
            ``init_args``. Defaults to ``forget_dataloader`` of the trainer's datamodule (see :class:`ForgetRetainData`).
        seed: Seed of the order of the forget data, where no :class:`ForgetRetainData` says it.
        optimizer: From parameters to the optimizer of forgetting alone, such as ``torch.optim.SGD``. Defaults to none: the
            gradients are merged, and the user's optimizer takes both. Costs one more gradient's memory, and its own state.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization or DeepSpeed; when the fit starts, with LBFGS.
        ValueError: In ``setup``, if there is no forget or no retain data; during the fit, if forget examples are among the
            retain data, or nothing in the forget data is supervised.
        FloatingPointError: If a loss or a gradient is not finite.

    Example:
        >>> from lightning_unlearn import NPO
        >>> callback = Unlearn(NPO(beta=0.1))  # Trainer(callbacks=[callback])
        >>> apart = Unlearn(NPO(beta=0.1), optimizer=lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9))
    """

    def __init__(
        self,
        objective: Objective,
        readout: Readout | None = None,
        projector: Projector | None = None,
        reference: Reference | None = None,
        weight: float = 1.0,
        forget: DataSource | None = None,
        seed: int = 0,
        optimizer: OptimizerCallable | None = None,
    ) -> None:
        if not isinstance(objective, Objective):
            raise TypeError(f"`objective` should be an `Objective`, such as `NPO()`. Found `{objective!r}`.")
        if not 0 < weight < math.inf:
            raise ValueError(
                "`weight` should be positive and finite: it is the sign of `objective` that says forget. Found "
                f"`weight = {weight}`."
            )
        if optimizer is not None and (isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer)):
            raise TypeError(
                "`optimizer` should make an optimizer from parameters, as `torch.optim.SGD` does, or `lambda params: "
                f"torch.optim.SGD(params, lr=1e-2)`. Found `{type(optimizer).__name__}`."
            )
        if optimizer is not None and projector is not None:
            raise ValueError(
                f"`projector` should have two gradients to merge. Found `projector = {projector!r}` and an `optimizer`, "
                "which steps along the forget gradient alone. Leave out one of them; to protect its step, add "
                "`StepGuard(NoChange())` to the callbacks."
            )
        self.objective = objective
        self.readout = readout
        self.projector = projector
        self.reference = reference
        self.weight = weight
        self.seed = seed
        self.forget = forget
        self.optimizer = optimizer
        self._chosen_reference: Reference | None = None
        self._private: PrivateStep | None = None
        self._micro_batches = 0
        self._steps = {"merged": 0, "taken": 0}
        self._restored: dict[str, Any] = {}
        self._step_log: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        """Tells several instances in one trainer apart by what they minimise."""
        return f"Unlearn[{self.objective!r}]"

    @property
    def forget_optimizer(self) -> torch.optim.Optimizer | None:
        """What ``optimizer`` made for this fit; ``None`` if forgetting has none of its own, or before the fit."""
        return None if self._private is None else self._private.optimizer

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work; see the original model before a checkpoint replaces it."""
        if stage != "fit":
            return
        refuse_unsupported(trainer, pl_module)
        self._loader, self._order = forget_source(trainer, self.forget)
        StepChain.of(trainer).add_forgetting(self)
        if not trainer.strategy.restore_checkpoint_after_setup and any(True for _ in pl_module.parameters()):
            self._attach(trainer, pl_module)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sharded modules, those that are built in ``configure_model``, and the optimizer exist only now."""
        refuse_optimizers(trainer, "Unlearn")
        self._engine = GradientEngine(pl_module, trainer)
        if self.optimizer is not None:
            self._private = PrivateStep(self._engine, self.optimizer, trainer.optimizers[0])
        if not hasattr(self, "_network"):
            self._attach(trainer, pl_module)
            restored = trainer.ckpt_path is not None and not trainer.strategy.restore_checkpoint_after_setup
            if restored and isinstance(self._chosen_reference, FrozenCopy):
                raise NotImplementedError(
                    "`FrozenCopy` should see the original weights before the checkpoint replaces them. Found a module that "
                    "is built in `configure_model`, after which the checkpoint is restored at once. Build the network in "
                    "`__init__`, or use LoRA with `AdapterDisabled()`."
                )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the forget stream, cache what the reference needs, and take up where a checkpoint left off."""
        self._merger = Merger(self._engine, self.projector, self.weight)
        self._supervision = SupervisionCheck(self._engine, self._loader)
        self._guard = OverlapCheck(self._used_readout)
        self._realised = RealisedStep()
        self.objective.to(pl_module.device)
        rank, world_size = data_share(trainer)
        self._stream = ForgetStream(self._loader, order=self._order, seed=self.seed, rank=rank, world_size=world_size)
        is_resumed = self._restore()
        if self._chosen_reference is not None and self._chosen_reference.needs_sweep and not is_resumed:
            self._sweep(self._chosen_reference)
        StepChain.of(trainer).attach(trainer.optimizers[0])

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the micro-batch, and notice forget examples among the retain data."""
        self._micro_batches += 1
        if trainer.current_epoch == 0:
            self._guard.saw_retain(batch)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Show the retain loss to projectors that go by it."""
        self._merger.saw_retain(loss, trainer.accumulate_grad_batches)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Merge, or have it ready: ``.grad`` is accumulated, reduced and unscaled here, and not yet clipped."""
        params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        batches = [self._engine.to_device(next(self._stream)) for _ in range(self._micro_batches)]
        self._micro_batches = 0
        if trainer.current_epoch == 0:
            self._guard.saw_forget(batches)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = every > 0 and trainer.global_step % every == 0
        accumulate = trainer.accumulate_grad_batches
        merge, apart = self._merger.merge_, self._merger.apart
        with unscaled(self._engine, optimizer, params):
            if self._private is None:
                self._step_log = merge(self.forget_loss, batches, params, accumulate=accumulate, measured=logged)
            else:
                row, self._step_log = apart(self.forget_loss, batches, params, accumulate=accumulate)
                self._private.hold(params, row, measured=logged)
        self._supervision.check()
        if self._private is not None:
            return
        self._steps["merged"] += 1
        if logged and not unscales_by_itself(self._engine, optimizer):
            self._realised.before(optimizer, params)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the step did."""
        if not self._step_log:
            return
        shown = {"unlearn/forget": self._step_log.pop("forget")}
        if isinstance(outputs, dict) and "loss" in outputs:
            loss = outputs["loss"].detach().float() * trainer.accumulate_grad_batches
            shown["unlearn/retain"] = self._engine.average(loss)
        pl_module.log_dict(shown, prog_bar=True, batch_size=1)
        pl_module.log_dict({f"unlearn/{name}": value for name, value in self._step_log.items()}, batch_size=1)
        self._step_log = {}

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prove that forgetting happened: every optimizer step must have been merged into, or been followed by its own."""
        self._end(trainer)
        if self._steps["merged"] < self._steps["taken"]:
            raise RuntimeError(
                f"Every optimizer step should carry a forget gradient. Found {self._steps['taken']} steps, of which "
                f"{self._steps['merged']} did: `on_before_optimizer_step` was not called. Does `optimizer_step` or "
                "`backward` of your module bypass it?"
            )
        self._supervision.check(is_end=True)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A fit without a single batch does not call any of the above."""
        refuse_empty_retain(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind; say so if it was the checkpoint."""
        self._end(trainer)
        refuse_truncated(trainer.ckpt_path)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Position in the forget data, counters, the parts' own state, and what the reference must remember."""
        reference = self._chosen_reference
        return {
            "position": self._stream.position if hasattr(self, "_stream") else 0,
            "steps": dict(self._steps),
            "objective": self.objective.state_dict(),
            # Before the first step there is nothing to save; and where it is sharded, torch would take one to find that out.
            "optimizer": self._private.state_dict() if self._private is not None and self._steps["merged"] else {},
            "projector": {} if self.projector is None else self.projector.state_dict(),
            "reference": {} if reference is None else reference.state_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts: under FSDP it comes before the stream and the reference exist."""
        self._restored = state_dict

    def forget_loss(self, batch: Any) -> Tensor:
        """The objective on one forget micro-batch."""
        original = None if self._chosen_reference is None else self._chosen_reference(self._used_readout, batch)
        student = self._used_readout(self._network, batch)
        self._supervision.saw(student)
        loss: Tensor = self.objective(student, original)
        if loss.dim() or not loss.requires_grad:
            raise ValueError(
                f"`{type(self.objective).__name__}` should return a scalar that depends on the network. Found shape "
                f"{tuple(loss.shape)}, `requires_grad = {loss.requires_grad}`. Take a mean, and do not detach."
            )
        return loss

    def _attach(self, trainer: pl.Trainer, pl_module: nn.Module) -> None:
        self._used_readout = choose_readout(pl_module) if self.readout is None else self.readout
        self._network = self._used_readout.find_network(pl_module)
        given = self.reference is not None  # a cache has a length, and starts empty
        self._chosen_reference = self.reference if given else choose_reference(self.objective, self._network)
        if self._chosen_reference is None:
            return
        if self.objective.needs_reference_logits and not self._chosen_reference.gives_logits:
            raise ValueError(
                f"`{type(self.objective).__name__}` should get the original model's whole distribution. Found "
                f"`{type(self._chosen_reference).__name__}`, which only knows likelihoods. Use `FrozenCopy()`."
            )
        if isinstance(self._chosen_reference, FrozenCopy) and strategy_kind(trainer) == "fsdp1":
            raise NotImplementedError(
                "`FrozenCopy` should be able to swap weights in place. Found `FSDPStrategy` (FSDP1), whose flat parameters "
                "do not show it. Use `ModelParallelStrategy` (FSDP2), LoRA with `AdapterDisabled()`, or an objective that "
                "only needs likelihoods, such as `NPO`."
            )
        self._chosen_reference.attach(self._network)

    def _sweep(self, reference: Reference) -> None:
        batches: Iterable[Any] = (self._engine.to_device(batch) for batch in self._stream.sweep())
        self._engine.forward(lambda all_batches: reference.sweep(self._used_readout, all_batches), batches)
        share_among_ranks(reference, self._engine.world_size)

    def _restore(self) -> bool:
        """Take up what a checkpoint holds, once: a second fit does not go back to it."""
        state, self._restored = self._restored, {}
        if not state:
            return False
        self._stream.seek(state["position"])
        self._steps = dict(state["steps"])
        self.objective.load_state_dict(state["objective"])
        if state["optimizer"] and self._private is not None:
            self._private.load_state_dict(state["optimizer"])
        if self.projector is not None:
            self.projector.load_state_dict(state["projector"])
        if self._chosen_reference is not None:
            self._chosen_reference.load_state_dict(state["reference"])
        return True

    def after_fit_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """The fit's optimizer has stepped: measure that, or take our own step; the chain calls this before any guard."""
        self._steps["taken"] += 1
        if self._private is None:
            self._show_realised(self._realised.after(optimizer))
            return False
        taken = self._private.take_()
        self._steps["merged"] += taken
        self._show_realised(self._private.realised)
        return taken

    def _show_realised(self, ratio: float | None) -> None:
        if ratio is None:
            return
        self._step_log["realised"] = torch.tensor(ratio)
        if ratio < 0.5:
            rank_zero_warn(
                f"The weights took {ratio:.0%} of the length of the step the optimizer asked for: their precision swallows "
                "small steps. Train float32 weights with `precision='bf16-mixed'`, or use LoRA."
            )

    def _end(self, trainer: pl.Trainer) -> None:
        StepChain.close(trainer)
        if hasattr(self, "_stream"):
            self._stream.close()


def share_among_ranks(reference: Reference, world_size: int) -> None:
    """Let every rank know what each of them has cached."""
    if world_size == 1 or not hasattr(reference, "known"):
        return
    gathered: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(gathered, reference.known)
    for known in gathered:
        reference.add(known)  # type: ignore[attr-defined]
