from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.data import DataSource, ForgetStream, OpenedSource, loader_of
from lightning_unlearn.engine import GradientEngine, callbacks_of, isolated
from lightning_unlearn.functional.subspace import Projection, thinner
from lightning_unlearn.guards._refusals import refuse_nothing_to_protect
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.subspaces import InputLayer, ProtectedInputs, Subspace, input_layers, look_at_inputs
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.runtime import data_share, local
from lightning_unlearn.transforms import Restriction, Step, StepChain


class SubspaceGuard(Restriction):
    r"""Let steps change linear layers only where what must stay does not look: at inputs it hardly has.

    Before training the inputs of each layer on retain batches are looked at, where they are not padding, and a
    ``subspace`` of them protected. After each optimizer step, with momentum, weight decay and clipping in it, the change
    that the weights really took is replaced by its part that does not act on protected inputs:

    .. math:: W \leftarrow W_\mathrm{before} + (W_\mathrm{after} - W_\mathrm{before}) \, P, \qquad P = I - U U^\top

    so that :math:`W x` stays what it was for every :math:`x` in the span of :math:`U`, whatever the optimizer, up to the
    rounding of the weights. The optimizer's state stays that of the step it proposed. Trained biases are part of the
    matrix, with an input that is always 1. Of LoRA the first factor ``A`` is projected, once where it starts and then in
    each step, which makes the whole adapter vanish on protected inputs.

    What is promised holds for each layer by itself: that its *outputs* on protected inputs stay. Whether its inputs stay
    is for the layers before. Trainable parameters that cannot be protected (norms, embeddings and heads tied to them,
    convolutions, layers that were never called) are named in a warning. What the fit itself would learn on protected
    inputs in these layers is taken out too.

    :class:`StepGuard` beside it, in any order, looks for its directions among the steps that this one allows, and this one
    is applied last: then no protected loss rises to first order *and* no protected input is acted on. What
    :class:`TrainOnly` keeps as it is counts as not trained. Beside an :class:`Unlearn` with an optimizer of its own both
    steps are projected.

    Layers that are unfrozen during the fit, as by ``BaseFinetuning``, are not protected, since nothing is known of their
    inputs; they are named in the warning then.

    Logged where the trainer logs: ``subspace/kept`` (length of the applied step of all protected layers over that of the
    proposed one) and ``subspace/action`` (how much of it acts on protected inputs after all, over the length of the longer
    of the two; the worst layer). Each step is projected in float64 and rounded once: a step much shorter than the weights
    shows that rounding. More than float32 would round is warned about.

    Checkpoints hold bases and counters; a resumed fit does not look again.

    Args:
        subspace: :class:`NullSpace` or :class:`InputSubspace`.
        retain: What must stay, if not what the fit trains on: a datamodule, a loader, a data set, or, from YAML, a mapping
            with ``class_path`` and ``init_args``.
        layers: Which layers, as ``fnmatch`` patterns of a full name or of any part of it between dots, such as
            ``"down_proj"`` or ``"model.layers.1?.*"``. Defaults to all that can be protected.
        batches: Number of retain micro-batches to look at, in each process, drawn at random.
        readout: How to run the network on them. Defaults as in :class:`Unlearn`.
        seed: Of which batches.

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
        if not isinstance(subspace, Subspace):
            raise TypeError(f"`subspace` should be a `Subspace`, such as `InputSubspace()`. Found `{subspace!r}`.")
        if batches < 1:
            raise ValueError(f"`batches` should be at least 1. Found `batches = {batches}`.")
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

    @property
    def state_key(self) -> str:
        """Bases are of one kind of subspace."""
        return f"SubspaceGuard[{self.subspace!r}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if len(callbacks_of(trainer, SubspaceGuard)) > 1:
            raise ValueError(
                "There should be one `SubspaceGuard`: projections that follow each other undo each other. Found "
                f"{len(callbacks_of(trainer, SubspaceGuard))}. Name all layers in one."
            )
        self._loader = () if self.retain is None else loader_of(self.retain, "retain", trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """By now it is known who forgets."""
        super().on_fit_start(trainer, pl_module)
        refuse_nothing_to_protect(trainer, self.retain, "SubspaceGuard")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the inputs, or take up where a checkpoint left off."""
        super().on_train_start(trainer, pl_module)
        self._engine = GradientEngine(pl_module, trainer)
        self._trained = _trained(trainer)
        found = input_layers(pl_module, self._trained, self.layers)
        for layer in found:
            layer.refuse_sharded_inputs()
        if state := self._take_restored():
            self._inputs = ProtectedInputs.restored(self._engine, found, state["bases"])
        else:
            self._inputs = self._look(trainer, pl_module, found)
        self._warn_unprotected(pl_module)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Notice layers that were unfrozen since."""
        if len(trained := _trained(trainer)) > len(self._trained):
            self._trained = trained
            self._warn_unprotected(pl_module)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self._is_measured = not self._steps["transformed"] or (every > 0 and trainer.global_step % every == 0)
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

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
        self._has_warned = True
        kinds = sorted({str(p.dtype) for p in self._trained if self._inputs.covers(p)})
        rank_zero_warn(
            f"The corrected step should not act on protected inputs. Found {applied.action:.1e} of it that does: weights of "
            f"{kinds} round it. Train float32 weights with `precision='bf16-mixed'`, or use LoRA in float32."
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        """Counters and bases."""
        return {**super().state_dict(), "bases": self._inputs.bases() if hasattr(self, "_inputs") else {}}

    @override
    def allowed(self, direction: Direction, params: Sequence[Tensor]) -> Direction:
        """The part of a gradient along which steps may go; see :meth:`ProtectedInputs.allowed`."""
        return self._inputs.allowed(direction, params)

    def _look(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, layers: Sequence[InputLayer]
    ) -> ProtectedInputs:
        readout = (choose_readout(pl_module) if self.readout is None else self.readout).for_measuring().unpacked()
        network = readout.find_network(pl_module)
        rank, world_size = data_share(trainer)
        stream = ForgetStream(self._retain(trainer), seed=self.seed, rank=rank, world_size=world_size, name="retain")
        batches = (next(stream) for _ in range(self.batches))
        with isolated(trainer, pl_module):
            seen = look_at_inputs(self._engine, network, readout, batches, layers, self.subspace)
        stream.close()
        projections, narrow = {}, []
        for layer in (layer for layer in layers if layer.name in seen.summaries):  # others were never called
            projections[layer], is_enough = self._decide(trainer, layer, seen.summaries.pop(layer.name))
            narrow += [] if is_enough else [layer.name]
        inputs = ProtectedInputs(self._engine, projections)
        inputs.start_adapters_()
        _warn_of("Every layer should have something left to learn with. Found nothing free in", inputs.exhausted())
        _warn_of(
            "The sketch should tell which directions hold the energy asked for; use a larger `width`. Found too few, and "
            "protected all of them, in",
            narrow,
        )
        _warn_of(
            "Inputs should be positions of the batch, so that padding is known. Found others, and looked at padding too, in",
            sorted(seen.with_padding),
        )
        return inputs

    def _decide(self, trainer: pl.Trainer, layer: InputLayer, summary: Tensor) -> tuple[Projection, bool]:
        """As the first process sees it: another might round to another rank."""
        decided: Any = None
        if trainer.is_global_zero:
            protected, is_enough = self.subspace.protected(summary)
            thin = thinner(protected)
            dtype = torch.promote_types(layer.weight.dtype, torch.float32)
            decided = thin.basis.to("cpu", dtype), thin.is_free, is_enough
        basis, is_free, is_enough = trainer.strategy.broadcast(decided)
        return Projection(basis.to(local(layer.weight).device), is_free), is_enough

    def _retain(self, trainer: pl.Trainer) -> Iterable[Any]:
        if self.retain is not None:
            return self._loader
        loader: Any = trainer.train_dataloader
        if isinstance(loader, Mapping):
            raise ValueError(
                f"`SubspaceGuard` should find one training loader to look at. Found several, {list(loader)}. Use "
                "`SubspaceGuard(retain=...)`."
            )
        return OpenedSource(loader, "retain").loader()

    def _warn_unprotected(self, module: nn.Module) -> None:
        bare = {id(p): p.numel() for p in self._trained if not self._inputs.covers(p)}
        share = sum(bare.values()) / sum(p.numel() for p in self._trained)
        _warn_of(
            f"All that is trained should be protected: freeze the rest, or add `StepGuard()`. Found {share:.2%} of the "
            "trainable numbers that `SubspaceGuard` cannot protect, or was not told to:",
            [name for name, p in module.named_parameters() if id(p) in bare],
        )


def _trained(trainer: pl.Trainer) -> list[Tensor]:
    """What steps change: the optimizer's parameters, without those that another restriction keeps as they are."""
    chain = StepChain.of(trainer)
    params = (p for group in trainer.optimizers[0].param_groups for p in group["params"])
    return [p for p in params if p.requires_grad and not chain.leaves_alone(p)]


def _warn_of(text: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        rank_zero_warn(f"{text} {', '.join(f'`{name}`' for name in names[:8])}{more}.")
