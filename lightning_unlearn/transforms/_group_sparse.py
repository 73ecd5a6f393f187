from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import refuse_own_rates, sum_by_scope
from lightning_unlearn.functional.settings import check_not_negative, check_whole
from lightning_unlearn.functional.soft_threshold import group_factors
from lightning_unlearn.models.layers import blocks, plain_name
from lightning_unlearn.runtime import local
from lightning_unlearn.transforms._chain import Link, Stage, StepChain
from lightning_unlearn.transforms._step import Step
from lightning_unlearn.transforms._step_transform import StepTransform
from lightning_unlearn.transforms._train_only import TrainOnly

_FACTORS = ("lora_A.", "lora_B.", "lora_embedding_A.", "lora_embedding_B.")


class GroupSparse(StepTransform):
    r"""Leave as few blocks changed as possible: GS-LoRA's group lasso, as a proximal step that reaches zero.

    After each step, with the length :math:`\|\theta_g\|` of all factors of an adapter in block :math:`g` and the learning
    rate :math:`\eta`,

    .. math:: \theta_g \leftarrow \max\Bigl(0, \; 1 - \frac{\eta \alpha}{\|\theta_g\|}\Bigr) \, \theta_g

    A penalty :math:`\alpha \sum_g \|\theta_g\|` in the loss, as published, gives the same force by its subgradient, but no
    group ever becomes exactly zero; and where one is zero its gradient is 0 / 0. Here a zero group stays as it is. Both
    factors of it are zero, so that no gradient reaches it any more: it is out for the rest of the fit. Trained copies of
    modules (``modules_to_save``) are left alone.

    Without an adapter the groups are the trained parameters of each block; what is outside of blocks is left alone. Where
    nothing repeats, each module that holds parameters is a block. Under Adam the step is in its metric, and the threshold is
    not. Pointwise restrictions of :class:`TrainOnly` hold: what stays is not shrunk.

    Logged each step: ``group_sparse/groups``, how many are not zero, and ``group_sparse/penalty``,
    :math:`\alpha \sum_g \|\theta_g\|`. :attr:`selected` names those that are left.

    Args:
        alpha: :math:`\alpha`. Published: 1e-4 to 1e-2, by the loss's scale.
        warmup_steps: Steps at the start without it: then groups grow before they compete. Published: 20 epochs.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization, DeepSpeed or FSDP1. When the fit starts, beside
            :class:`StepGuard`, :class:`SignGate` or :class:`SubspaceGuard`. When training starts, with DoRA, or with an
            optimizer that finds its own learning rate.
        ValueError: When training starts, if no parameter is in a block.
        RuntimeError: When training ends, if an optimizer step was not transformed.

    Example:
        >>> sparse = GroupSparse(alpha=0.01, warmup_steps=100)  # Trainer(callbacks=[unlearn, sparse])

    References:
        Zhao et al., `Continual Forgetting for Pre-trained Vision Models <https://arxiv.org/abs/2403.11530>`_ (GS-LoRA),
        2024, eqs. 7 and 8, by its code; the proximal step is ours.
    """

    stage: ClassVar[Stage] = Stage.PROXIMAL
    prefix: ClassVar[str] = "group_sparse"
    works_on_flat_shards: ClassVar[bool] = False

    def __init__(self, alpha: float = 1e-2, warmup_steps: int = 0) -> None:
        super().__init__()
        check_not_negative("alpha", alpha)
        check_whole("warmup_steps", warmup_steps, least=0)
        self.alpha, self.warmup_steps = alpha, warmup_steps
        self.selected: dict[str, float] = {}
        """Length of each group that is not zero, by the name of its block, after the last step."""
        self._scope_of: dict[int, int] = {}
        self._names: list[str] = []

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what other callbacks rule out: all of them joined the chain in ``setup``, so they are known now."""
        _refuse_guards(StepChain.of(trainer).transforms)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the groups: by now parameters are sharded."""
        super().on_train_start(trainer, pl_module)
        refuse_own_rates(StepChain.of(trainer).guarded(trainer.optimizers[0]).param_groups, "GroupSparse")
        self._scope_of, self._names = _groups(pl_module)
        self.selected = {}

    @override
    def wanted(self, step: Step) -> Sequence[Sequence[Tensor]]:
        return []

    @override
    @torch.no_grad()
    def after(self, step: Step) -> None:
        rates = {id(p): float(group["lr"]) for group in step.optimizer.param_groups for p in group["params"]}
        params = [p for p in step.params if id(p) in self._scope_of and p.requires_grad]
        scopes = [self._scope_of[id(p)] for p in params]
        lengths = _lengths(params, scopes, len(self._names))
        if self._steps["transformed"] >= self.warmup_steps and self.alpha:
            factors = {rate: group_factors(lengths, rate * self.alpha) for rate in {rates[id(p)] for p in params}}
            for p, scope in zip(params, scopes, strict=True):
                here = local(p)
                factor = factors[rates[id(p)]][scope]
                # At a factor of 1 nothing is written, so that what it does not reach stays to the bit.
                if factor != 1:
                    here.mul_(factor.to(here))
            lengths = _lengths(params, scopes, len(self._names))
        present = {self._names[scope] for scope in scopes}
        self.selected = {
            name: size for name, size in zip(self._names, lengths.tolist(), strict=True) if size and name in present
        }
        self._step_log = {"groups": float(len(self.selected)), "penalty": self.alpha * sum(self.selected.values())}


def _refuse_guards(transforms: Sequence[Link]) -> None:
    # A guard that came last would put zeros back, and one that comes first does not see what is shrunk.
    for other in transforms:
        if other.stage in (Stage.GATE, Stage.RULE) or (
            other.stage == Stage.RESTRICT and not isinstance(other, TrainOnly)
        ):
            raise NotImplementedError(
                f"`GroupSparse` should shrink steps that nobody guards. Found `{type(other).__name__}` beside it: either "
                "what it promises about steps would not hold, or groups would not stay zero. Leave one of the two out."
            )


def _groups(module: pl.LightningModule) -> tuple[dict[int, int], list[str]]:
    """The number of each parameter's group, by ``id``, and the names of the groups."""
    # Frozen ones, too: they may be unfrozen later.
    named = {plain_name(name): p for name, p in module.named_parameters()}
    if dora := next((name for name, p in named.items() if "lora_magnitude" in name and p.requires_grad), None):
        raise NotImplementedError(
            f"`GroupSparse` should find adapters that add nothing where their factors are zero. Found `{dora}`: DoRA's "
            "magnitudes rescale the layer. Use plain LoRA (`use_dora=False`)."
        )
    factors = {name: p for name, p in named.items() if any(part in name for part in _FACTORS)}
    inside = factors if _trained(factors) else named
    repeated = [plain_name(name) for name in blocks(module)]
    found: dict[str, list[Tensor]] = {}
    for name, p in inside.items():
        block = next((b for b in repeated if name.startswith(f"{b}.")), None)
        block = name.rpartition(".")[0] if block is None and not repeated else block
        if block is not None:
            found.setdefault(block, []).append(p)
    what = f"Found {_trained(named)} trained parameters, none of them in one of {len(repeated)} blocks"
    if not found:
        raise ValueError(
            f"`GroupSparse` should find parameters in blocks. {what}. Put an adapter on layers of the blocks, "
            "or leave it out."
        )
    if not any(p.requires_grad for group in found.values() for p in group):
        rank_zero_warn(
            f"`GroupSparse` should find trained parameters in blocks. {what}: nothing is shrunk until they are unfrozen."
        )
    return {id(p): i for i, group in enumerate(found.values()) for p in group}, list(found)


def _trained(named: Mapping[str, Tensor]) -> int:
    return sum(p.requires_grad for p in named.values())


def _lengths(params: Sequence[Tensor], scopes: Sequence[int], count: int) -> Tensor:
    """Length of each group, ``[count]`` float64, of all its shards. Collective where parameters are sharded."""
    if not params:
        return torch.zeros(count, dtype=torch.float64)
    squares = (local(p).detach().double().square().sum() for p in params)
    return sum_by_scope(squares, params, scopes, count).sqrt()
