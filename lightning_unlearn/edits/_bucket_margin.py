from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks import Quantize
from lightning_unlearn.edits._base import Edit
from lightning_unlearn.edits._pulls import diagonal_fisher, pull_of
from lightning_unlearn.edits._rounded_targets import Target, targets_of
from lightning_unlearn.engine import GradientEngine, sharded_like
from lightning_unlearn.functional.buckets import settled
from lightning_unlearn.functional.settings import check_between, check_kind, check_not_negative
from lightning_unlearn.models import read_weights, without_prefix
from lightning_unlearn.objectives import GradientAscent, Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import local
from lightning_unlearn.selectors import Choice, TopShare


class BucketMargin(Edit):
    r"""Decide exactly which weights are rounded to another level than the original's, and hold all others where they are.

    No paper has it in this form: it makes exact what is published as floors for changes and as choices of rows. A fit
    changes most weights by far less than the width of a bucket, so it is chance which of them are rounded to another level.
    Here the chosen weights are moved past the boundary :math:`b` of the *original's* bucket by a margin, all others stay
    inside the bucket that they are in now, and the largest weight of each group, which sets the scale, is put back to the
    original's:

    .. math:: \theta_i \leftarrow b_i + s_i m J_i \quad \text{for } i \in S, \qquad s_i = -\mathrm{sign}\, g_i

    where :math:`J` is the distance to the next level and :math:`g` the forget gradient. :math:`S` are the weights of the
    highest

    .. math:: |g_i| J_i - \tfrac{\lambda}{2} h_i J_i^2

    of those where this is positive: what the flip takes off the forget loss to first order, less what it costs in the retain
    loss, with the diagonal Fisher information :math:`h` of the retain data. Weights that are already past their boundary
    only stay there. Weights at the last level in their direction, the largest of a group, and frozen ones are never chosen.

    It breaks what guards and budgets of the fit promise, and can make the network in full precision and the rounded one
    differ: flips of weights that lie near their boundaries cost little in one and much in the other. Observe both
    afterwards. In bf16 the margin is lost on grids of 8 bits, whose buckets are narrower than the spacing of large weights.

    Use it as ``ApplyEdit(BucketMargin(...), when="end")``: the original is then the network at the start of the fit. Called
    alone, the original is the network itself, unless ``original`` is given.

    Args:
        against: The grids that have to see the flips, all at once; the farthest boundary counts. Defaults to int4 in groups
            of 32 and of 128, nf4, and int8.
        choice: How many weights are chosen, among those of all layers. Defaults to a thousandth of them. The price knows
            each flip by itself, and many together cost more than their sum: take few, and observe the retain data.
        objective: What forgetting minimises. It should need no reference.
        margin: How far past the boundary, and inside the bucket, in units of the distance to the next level; below 0.5.
        price: :math:`\lambda`; 0 for flips at any cost.
        original: Weights of the original: a safetensors file, a Hugging Face folder, or a Lightning checkpoint.

    Raises:
        ValueError: When called, if a weight is computed, has an adapter, or all are frozen.

    Example:
        >>> from lightning_unlearn import ClassificationReadout
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Linear(64, 8, bias=False)
        >>> int4 = Quantize(bits=4)
        >>> before = int4.codes(network.weight)
        >>> batch = [(torch.randn(16, 64), torch.arange(16) % 8)]
        >>> record = BucketMargin([int4], TopShare(0.1))(
        ...     network, forget=batch, retain=batch, readout=ClassificationReadout()
        ... )
        >>> (int4.codes(network.weight) != before).sum().item(), 64 * 8 // 10 + 1
        (52, 52)
    """

    needs_forget: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True

    def __init__(
        self,
        against: Sequence[Quantize] | None = None,
        choice: Choice | None = None,
        objective: Objective | None = None,
        margin: float = 0.05,
        price: float = 1.0,
        original: str | None = None,
    ) -> None:
        self.against = _usual() if against is None else list(against)
        if not self.against:
            raise ValueError("`against` should name at least one `Quantize`. Found none.")
        for i, attack in enumerate(self.against):
            check_kind(f"against[{i}]", attack, Quantize, "Quantize(bits=4)")
        check_between("margin", margin, 0, 0.49)
        check_not_negative("price", price)
        self.choice = TopShare(0.001) if choice is None else choice
        self.objective = GradientAscent() if objective is None else objective
        if self.objective.needs_reference or self.objective.needs_reference_logits:
            raise ValueError(
                f"`objective` should need no reference. Found `{self.objective!r}`. Use `GradientAscent()`, whose gradient "
                "has the same direction for each example."
            )
        self.margin, self.price, self.original = margin, price, original
        self._seen: dict[str, Tensor] = {}

    @override
    def see_original(self, network: nn.Module) -> None:
        """Copy the weights in question to the CPU."""
        # Made in inference mode they could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            targets = targets_of(network, self.against)
            self._seen = {t.name: local(t.param).detach().to("cpu", copy=True) for t in targets}

    @override
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        assert readout is not None, "it needs data, so `ApplyEdit` gives a readout"
        targets = targets_of(network, self.against)
        originals = self._originals(network, targets)
        params = [t.param for t in targets]
        pull = pull_of(self.objective, network, forget, readout, engine, params)
        prices = diagonal_fisher(network, retain, readout, engine, params) if self.price else [None] * len(params)
        scores = {
            t.name: self._scored(t, originals[t.name], p, h) for t, p, h in zip(targets, pull, prices, strict=True)
        }
        chosen = self.choice(scores)
        for t, p in zip(targets, pull, strict=True):
            # What cannot be flipped, or costs more than it gains, has a score of 0 or less.
            mask = local(chosen[t.name]) & (local(scores[t.name]) > 0)
            yield t.name, self._moved(t, originals[t.name], p, mask)

    def _originals(self, network: nn.Module, targets: Sequence[Target]) -> dict[str, Tensor]:
        if self.original is None:
            return {t.name: self._seen.get(t.name, local(t.param).detach()).to(local(t.param).device) for t in targets}
        found = without_prefix(read_weights(self.original), network)
        if missing := [t.name for t in targets if t.name not in found or found[t.name].shape != t.param.shape]:
            raise ValueError(
                f"`original` should hold the weights that are rounded, in the network's shapes. Found none for "
                f"`{missing[0]}`, nor {len(missing) - 1} others, in `{self.original}`. Is it of another model?"
            )
        return {t.name: local(sharded_like(found[t.name].to(t.param.device), t.param)) for t in targets}

    def _scored(self, target: Target, original: Tensor, pull: Tensor, price: Tensor | None) -> Tensor:
        """Of each weight, in the parameter's layout; 0 where it cannot be flipped."""
        way, rows = target.flips(original, pull, self.margin), target.rows(pull)
        score = rows.double().abs() * way.jump
        if price is not None:
            score -= self.price / 2 * target.rows(price) * way.jump.square()
        return target.whole(torch.where(way.possible, score, 0.0).float())

    def _moved(self, target: Target, original: Tensor, pull: Tensor, chosen: Tensor) -> Tensor:
        way = target.flips(original, pull, self.margin)
        now, before, mask = (target.rows(t) for t in (target.param, original, chosen))
        return target.whole(settled(now, before, mask, way.target, target.grids, self.margin))


def _usual() -> list[Quantize]:
    return [Quantize(4, group_size=32), Quantize(4, group_size=128), Quantize(4, codebook="nf4"), Quantize(8)]
