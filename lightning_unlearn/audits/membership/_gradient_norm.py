from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits.membership._comparison import Comparison
from lightning_unlearn.data import Probe, in_order
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import CUTS, Readout
from lightning_unlearn.runtime import Misfit, drop_copies, eval_mode

_WORDS = "How far one step of training on an example would move the model; a short way for what it has learned already."


class GradientNorm(Audit):
    r"""Length of the gradient of each example's loss, and membership by it: what was trained on has a short one.

    .. math:: \Bigl\lVert \nabla_\theta \, \frac{1}{|y|} \sum_t -\log p_\theta(y_t \mid y_{<t}) \Bigr\rVert_2

    over all parameters that are trained, in evaluation mode. ``gradient_norm`` on the forget split and the holdout, and
    the comparison of the two as in :class:`Membership`.

    Each example costs a forward and a backward pass of its own. Every process runs all examples, since ranks of a sharded
    network compute a gradient together: more processes make it no faster. Gradients in flight are set aside, and nothing is
    kept of it. open-unlearning takes the mean of the norms of single tensors instead.

    Args:
        holdout: Name of the split of examples that nobody was trained on.

    Raises:
        Misfit: If there is no holdout, or no parameter is trained.
        ValueError: If the data cannot be read a second time.

    Example:
        >>> sorted(GradientNorm().definitions())[-3:]
        ['membership_auc_gradient_norm', 'tpr_at_0.1pct_gradient_norm', 'tpr_at_1pct_gradient_norm']

    References:
        Wang et al., `Pandora's White-Box <https://arxiv.org/abs/2402.17012>`_, 2024, for the norm as a score.
    """

    def __init__(self, holdout: str = "holdout") -> None:
        self.holdout = holdout
        self._compare = Comparison(holdout)

    @override
    def definitions(self) -> dict[str, str]:
        return {"gradient_norm": _WORDS, **self._compare.definitions("gradient_norm", _WORDS)}

    @override
    def refuse(self, probes: Mapping[str, Probe]) -> None:
        self._compare.refuse_missing(probes, "GradientNorm")

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        self.refuse(probes)
        # After a forward pass FSDP2 shows the root's own parameters gathered, and gives gradients to the shards.
        drop_copies(engine.module)
        params = [p for p in network.parameters() if p.requires_grad]
        if not params:
            raise Misfit(
                "`GradientNorm` should find parameters that are trained. Found none: all are frozen. Unfreeze some, or "
                "leave it out of `audits`."
            )
        scores: dict[str, list[float]] = {}
        found: list[Observation] = []
        with eval_mode(network):
            for split in ("forget", self.holdout):
                scores[split] = list(_norms(network, readout, probes[split], engine, params))
                found += observations_of(
                    split, probes[split], "gradient_norm", scores[split], higher_means_known=False, bounds=None
                )
        return found + self._compare("gradient_norm", scores, probes, higher_means_known=False)


def _norms(
    network: nn.Module, readout: Readout, probe: Probe, engine: GradientEngine, params: Sequence[Tensor]
) -> Iterator[float]:
    """One for each example that has an answer."""
    read = 0
    for batch in in_order(probe.loader):
        for alone in _cut(batch, readout):
            on_device = engine.to_device(alone)
            for number in range(len(readout.keys(alone))):
                read += 1
                loss = _LossOfOne(network, readout, number)
                row, _ = engine.row(loss, [on_device], params)
                if loss.is_supervised:
                    yield float(engine.gramian([row], params)[0, 0].sqrt())
    if read != probe.size:
        raise ValueError(
            f"`GradientNorm` should read the probe a second time. Found {read} of {probe.size} examples in its "
            f"`{type(probe.loader).__name__}`. Give the data as a `DataLoader` or a list."
        )


class _LossOfOne:
    """The mean loss over the tokens of one example of a batch."""

    def __init__(self, network: nn.Module, readout: Readout, number: int) -> None:
        self.network, self.readout, self.number = network, readout, number
        self.is_supervised = False

    def __call__(self, batch: Any) -> Tensor:
        likelihood = self.readout(self.network, batch)
        own = likelihood.token_nll()[likelihood.example == self.number]
        self.is_supervised = len(own) > 0
        return own.sum() / max(len(own), 1)  # without tokens a zero that is part of the graph


def _cut(batch: Any, readout: Readout) -> list[Any]:
    """Batches of one example, where these are the examples of ``batch``; otherwise the batch."""
    keys = readout.keys(batch)
    for cut in CUTS:
        parts = cut(batch) or []
        if len(parts) == len(keys) and [key for part in parts for key in readout.keys(part)] == keys:
            return parts
    return [batch]
