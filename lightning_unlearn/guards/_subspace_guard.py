from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.data import DataSource, ForgetStream, OpenedSource, loader_of
from lightning_unlearn.engine import GradientEngine, callbacks_of, decided_readout, isolated
from lightning_unlearn.functional.settings import check_kind, check_whole
from lightning_unlearn.guards._refusals import refuse_nothing_to_protect
from lightning_unlearn.guards._rounding import warn_of_action
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.subspaces import (
    InputLayer,
    ProtectedInputs,
    Subspace,
    decided_projection,
    input_layers,
    record_inputs,
    refuse_missing,
)
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import data_share
from lightning_unlearn.transforms import Restriction, Step, StepChain


class SubspaceGuard(Restriction):
    r"""Keep the outputs of linear layers on retained inputs: steps may act only on inputs that retain data hardly has.

    Before the first step, the inputs of each layer on retain batches are recorded, without padding, and a ``subspace`` of
    them is protected. After each optimizer step, the change that the weights really took, with momentum, weight decay and
    clipping in it, is replaced by its part that does not act on protected inputs:

    .. math:: W \leftarrow W_\mathrm{before} + (W_\mathrm{after} - W_\mathrm{before}) \, P, \qquad P = I - U U^\top

    So :math:`W x` stays as it was for every :math:`x` in the span of :math:`U`, whatever the optimizer, up to the rounding
    of the weights. The optimizer's state stays that of the step it proposed. A trained bias is one more column of the
    matrix, with an input that is always 1. With LoRA the first factor ``A`` is projected, once before training and then in
    each step. The adapter is then zero on protected inputs, whatever its second factor is.

    The promise holds for each layer alone: its *outputs* on protected inputs stay. Its inputs may still change, if earlier
    layers are not protected. Trainable parameters that cannot be protected are named in a warning: norms, embeddings and
    heads tied to them, convolutions, layers that were never called. What the fit would learn on protected inputs in these
    layers is taken out too.

    Beside a :class:`StepGuard`, in any order, the guard's corrections are sought among the steps that this class allows, and
    this class is applied last. Then no protected loss rises to first order, *and* no step acts on a protected input.
    Parameters that :class:`TrainOnly` freezes count as not trained. Beside ``Unlearn(optimizer=...)`` both steps are
    projected.

    Layers that are unfrozen or added during the fit, as ``BaseFinetuning`` does, are protected from their first step on, by
    the inputs that they have then.

    Logged every ``log_every_n_steps``:

    - ``subspace/kept``: length of the applied step of all protected layers, divided by that of the proposed one.
    - ``subspace/action``: the part of the applied step that acts on protected inputs, divided by the length of the longer of
      the two steps; the worst layer. Steps are projected in float64 and rounded once, so this shows the rounding of the
      weights. A warning is given if it is more than float32 weights would round.

    Checkpoints hold bases and counters. A resumed fit does not record inputs again.

    Args:
        subspace: :class:`NullSpace` or :class:`InputSubspace`.
        retain: What must stay: a datamodule, a loader, a data set, or, from YAML, a mapping with ``class_path`` and
            ``init_args``. Defaults to what the fit trains on.
        layers: Which layers, as ``fnmatch`` patterns of a full name or of any part of it between dots, such as
            ``"down_proj"`` or ``"model.layers.1?.*"``. Defaults to all that can be protected.
        batches: Number of retain micro-batches to record in each process, drawn at random.
        readout: How to run the network on them. Defaults as in :class:`Unlearn`.
        seed: Seed of the draw of these batches.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization, DeepSpeed or FSDP1; when training starts, with LBFGS,
            or if a layer is sharded over its inputs.
        ValueError: In ``setup``, if there is nothing to protect; when training starts, if no layer can be, a pattern fits
            none, or an adapter is not fresh.
        RuntimeError: When training ends, if an optimizer step was not guarded.

    Example:
        >>> from lightning_unlearn.guards import InputSubspace
        >>> guard = SubspaceGuard(InputSubspace(energy=0.95), layers=["mlp"])  # Trainer(callbacks=[unlearn, guard])

    References:
        The projection of the applied step is that of `Federated Orthogonal Training <https://arxiv.org/abs/2309.01289>`_,
        2024, where a server projects what clients have changed.
    """

    prefix: ClassVar[str] = "subspace"
    works_on_flat_shards: ClassVar[bool] = False

    def __init__(
        self,
        subspace: Subspace,
        retain: DataSource | None = None,
        layers: list[str] | None = None,
        batches: int = 32,
        readout: Readout | None = None,
        seed: int = 0,
    ) -> None:
        check_kind("subspace", subspace, Subspace, example="InputSubspace()")
        check_whole("batches", batches)
        super().__init__()
        self.retain = retain
        self.subspace = subspace
        self.layers = layers
        self.batches = batches
        self.readout = readout
        self.seed = seed
        self._has_warned = False
        self._is_measured = False
        self._trained: list[Tensor] = []
        self._examined: set[str] = set()  # names of layers that were trained at some time

    @property
    def state_key(self) -> str:
        """Names the kind of subspace: saved bases are of that kind."""
        return f"SubspaceGuard[{self.subspace!r}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if len(callbacks_of(trainer, SubspaceGuard)) > 1:
            raise ValueError(
                "There should be one `SubspaceGuard`: a second projection would undo the first. Found "
                f"{len(callbacks_of(trainer, SubspaceGuard))}. Name all layers in one."
            )
        self._loader = () if self.retain is None else loader_of(self.retain, "retain", trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there is something to protect: every ``Unlearn`` joined the chain in ``setup``."""
        super().on_fit_start(trainer, pl_module)
        refuse_nothing_to_protect(trainer, self.retain, "SubspaceGuard")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue where a checkpoint left off."""
        super().on_train_start(trainer, pl_module)
        self._engine = GradientEngine(pl_module, trainer)
        self._inputs = ProtectedInputs(self._engine, {})
        self._trained, self._examined = [], set()
        # A resumed fit must keep its bases: weights have moved since, and other inputs would give other bases.
        self._bases: dict[str, Any] = self._take_restored().get("bases", {})
        if self._bases:  # of layers that are trained now, or will be
            refuse_missing(input_layers(pl_module, list(pl_module.parameters()), self.layers), self._bases)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the inputs before the first step. Until then the hooks of others may load weights."""
        self.see_original(trainer, pl_module)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Protect the inputs that layers have now, unless that was done: before the first step, or before an edit."""
        if not self._trained:
            self._protect(trainer, pl_module)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Protect layers that were unfrozen or added since the last step."""
        known = {id(p) for p in self._trained}
        if any(id(p) not in known for p in _trained(trainer)):
            self._protect(trainer, pl_module)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Measuring costs one collective. It is done in the first step, for an early warning of rounding, and when logging.
        self._is_measured = not self._steps["transformed"] or (every > 0 and trainer.global_step % every == 0)
        super().on_before_optimizer_step(trainer, pl_module, optimizer)  # last: it may start the step

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        return [[p] for p in self._inputs.params]

    @override
    def after(self, step: Step) -> None:
        applied = self._inputs.correct_(step, measured=self._is_measured)
        if applied is None:
            return
        self._step_log = {"kept": applied.kept, "action": applied.action}
        if applied.is_within_rounding or self._has_warned:
            return
        self._has_warned = True  # once in a fit: every later step rounds in the same way
        warn_of_action(applied.action, [p for p in self._trained if self._inputs.covers(p)])

    @override
    def saved(self) -> dict[str, Any]:
        """Counters and bases."""
        return {**super().saved(), "bases": {**self._bases, **self._inputs.bases()}}

    @override
    def allowed(self, direction: Direction, params: Sequence[Tensor]) -> Direction:
        """The part of a gradient that steps may follow; see :meth:`ProtectedInputs.allowed`."""
        return self._inputs.allowed(direction, params)

    def _protect(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Protect all layers that are trained now and were not before. Collective: every rank must call it."""
        self._trained = _trained(trainer)
        layers = [x for x in input_layers(pl_module, self._trained, self.layers) if x.name not in self._examined]
        self._examined |= {layer.name for layer in layers}
        for layer in layers:
            layer.refuse_sharded_inputs()
        self._inputs.add(ProtectedInputs.restored(self._engine, layers, self._bases))
        if fresh := [layer for layer in layers if layer.name not in self._bases]:
            self._inputs.add(self._record(trainer, pl_module, fresh))
        self._warn_unprotected(pl_module)

    def _record(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, layers: Sequence[InputLayer]
    ) -> ProtectedInputs:
        # Unpacked: each row of an input must be a position `[B, T]` of the batch, or padding could not be left out.
        readout = decided_readout(trainer, pl_module, self.readout).for_measuring().for_mean().unpacked()
        network = readout.find_network(pl_module)
        rank, world_size = data_share(trainer)  # each process records its own share of the retain data
        stream = ForgetStream(self._retain(trainer), seed=self.seed, rank=rank, world_size=world_size, name="retain")
        # The same number in every process: FSDP gathers weights in each forward pass, and waits for all ranks.
        batches = (next(stream) for _ in range(self.batches))
        with isolated(trainer, pl_module):
            inputs = record_inputs(self._engine, network, readout, batches, layers, self.subspace)
        stream.close()
        projections, narrow = {}, []
        for layer in (layer for layer in layers if layer.name in inputs.summaries):  # others were never called
            # `pop` frees a summary, `[d, d]` at worst, before the next layer is decomposed.
            projections[layer], is_enough = decided_projection(
                trainer, layer, self.subspace, inputs.summaries.pop(layer.name)
            )
            narrow += [] if is_enough else [layer.name]
        protected = ProtectedInputs(self._engine, projections)
        protected.start_adapters_()
        _warn_of("Every layer should have a free direction to learn in. Found none in", protected.exhausted())
        _warn_of(
            "The sketch should be wide enough for the energy asked for. Use a larger `width`. Found that all of its "
            "directions hold less, and are all protected, in",
            narrow,
        )
        _warn_of(
            "Inputs should be positions of the batch, so that padding is known. Found other shapes, and recorded padding "
            "too, in",
            sorted(inputs.with_padding),
        )
        return protected

    def _retain(self, trainer: pl.Trainer) -> Iterable[Any]:
        if self.retain is not None:
            return self._loader
        loader: Any = trainer.train_dataloader
        if isinstance(loader, Mapping):
            raise ValueError(
                f"`SubspaceGuard` should find one training loader. Found several, {list(loader)}. Use "
                "`SubspaceGuard(retain=...)`."
            )
        return OpenedSource(loader, "retain").loader()

    def _warn_unprotected(self, module: nn.Module) -> None:
        unprotected = {id(p): p.numel() for p in self._trained if not self._inputs.covers(p)}
        share = sum(unprotected.values()) / sum(p.numel() for p in self._trained)
        _warn_of(
            "All trained parameters should be protected: freeze the others, or add `StepGuard()`. Found that "
            f"`SubspaceGuard` does not protect {share:.2%} of the trainable numbers, in",
            [name for name, p in module.named_parameters() if id(p) in unprotected],
        )


def _trained(trainer: pl.Trainer) -> list[Tensor]:
    """The optimizer's parameters that steps change: not those that another restriction leaves alone."""
    chain = StepChain.of(trainer)
    params = (p for group in trainer.optimizers[0].param_groups for p in group["params"])
    return [p for p in params if p.requires_grad and not chain.leaves_alone(p)]


def _warn_of(text: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        rank_zero_warn(f"{text} {', '.join(f'`{name}`' for name in names[:8])}{more}.")
