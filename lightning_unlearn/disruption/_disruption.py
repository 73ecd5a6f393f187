from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.disruption._kept_predictions import KeptPrediction, KeptStates, kept
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.divergence import kl_divergence
from lightning_unlearn.prediction import Likelihood, Prediction
from lightning_unlearn.readouts import Readout, refuse_foreign_tokens
from lightning_unlearn.runtime import eval_without_grad, seeded

_ZERO = 1e-6


class Disruption:
    r"""How far a network has moved from its original: the mean divergence of its predictions on neutral data, in nats.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \mathrm{KL}(p^\mathrm{original}_n \,\|\, p_n)

    over all supervised rows: tokens, or images. The two distributions of a row differ, on average, by at most
    :math:`\sqrt{\mathrm{KL} / 2}` in total variation (Pinsker): 0.07 for 0.01 nats.

    Of the original are kept, in main memory, the hidden states before the output head and a copy of the head, where the
    logits follow from these; otherwise the logits. Passes are in evaluation mode, with the same random numbers each time,
    and in the precision of the fit; divergences are computed in float32 at least, by chunks of rows, and added in float64.

    Args:
        batches: This rank's neutral batches, on the device, and whether each counts on this rank.
        readout: How to run the network on them. It must give logits.
        engine: How to run passes under the strategy in use.

    Raises:
        ValueError: If the readout gives no logits; when measured, if nothing is supervised.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(2, 3)
        >>> batch = torch.ones(4, 2), torch.zeros(4, dtype=torch.int64)
        >>> disruption = Disruption([(batch, True)], ClassificationReadout(), GradientEngine(layer))
        >>> disruption.see_original(layer)
        >>> _ = layer.bias.data.add_(torch.tensor([1.0, 0.0, 0.0]))
        >>> disruption(layer) > 0.01
        True
    """

    def __init__(self, batches: Sequence[tuple[Any, bool]], readout: Readout, engine: GradientEngine) -> None:
        refuse_without_logits(readout)
        self._batches, self._engine = list(batches), engine
        # Unpacked: whether a batch can be packed is found out on the first network that is run.
        self._readout = readout.for_measuring().unpacked()
        self._kept: list[KeptPrediction] = []

    def see_original(self, network: nn.Module, run: Callable[[Readout, Any], Likelihood] | None = None) -> None:
        """Keep what the original predicts. Collective: every rank must call it.

        Args:
            network: The network; the original, unless ``run`` is given.
            run: Runs a readout on a batch as the original, in a network that has moved on: a :class:`Reference`.
        """
        self._kept = []
        for batch, _ in self._batches:
            refuse_foreign_tokens(network, batch)
            self._kept.append(self._pass(network, lambda b: self._keep(network, b, run), batch))

    def __call__(self, network: nn.Module) -> float:
        """The divergence of ``network`` from the original. Collective: every rank must call it, and gets the same."""
        totals = torch.zeros(2, dtype=torch.float64, device=next(network.parameters()).device)
        for (batch, counts), original in zip(self._batches, self._kept, strict=True):
            rows = self._pass(network, lambda b, o=original: self._divergence(network, b, o), batch)  # type: ignore[misc]
            if counts:
                totals += torch.stack([rows.double().sum(), totals.new_tensor(len(rows))])
        total, count = map(float, self._engine.average(totals))  # averaged alike: their ratio is that of the sums
        if not count:
            raise ValueError(
                "Neutral data should hold at least one supervised label. Found none: every label is -100. For plain text, "
                "`labels` are the `input_ids`."
            )
        return max(total / count, 0.0) if total == total else total  # a divergence below zero is rounding

    def refuse_unlike(self, network: nn.Module) -> None:
        """Refuse a measure that is not zero for the original itself. Collective: every rank must call it."""
        if (found := self(network)) < _ZERO:
            return
        way = "its hidden states, through a copy of the head" if self._keeps_states else "its logits"
        raise ValueError(
            f"Measured on the original itself, the divergence should be below {_ZERO}. Found {found:.3g}, by {way}. Passes "
            "of the network differ from one another: is there dropout that stays on in evaluation mode, a network that "
            "changes when it is run, a readout that runs another part of it, or a precision that changes between passes? "
            "Give a `readout` that reads it the same way each time."
        )

    @property
    def _keeps_states(self) -> bool:
        return any(isinstance(each, KeptStates) for each in self._kept)

    def _pass(self, network: nn.Module, function: Callable[[Any], Any], batch: Any) -> Any:
        # Seeded: noise that stays on in evaluation mode is the same each time, and cancels out.
        with eval_without_grad(network), seeded(0):
            return self._engine.forward(function, batch)

    def _keep(self, network: nn.Module, batch: Any, run: Callable[[Readout, Any], Likelihood] | None) -> KeptPrediction:
        heads = [each.head for each in self._kept if isinstance(each, KeptStates)]
        readout = self._readout
        one_pass = (lambda: readout(network, batch)) if run is None else (lambda: run(readout, batch))
        return kept(network, one_pass, heads[0] if heads else None)

    def _divergence(self, network: nn.Module, batch: Any, original: KeptPrediction) -> Tensor:
        prediction = self._readout(network, batch)
        assert isinstance(prediction, Prediction)
        return kl_divergence(prediction.logits, original.logits(prediction.logits.device))


def refuse_without_logits(readout: Readout) -> None:
    """Refuse a readout that does not give whole distributions."""
    if not readout.gives_logits:
        raise ValueError(
            f"A divergence should be measured by a readout that gives logits. Found `{readout!r}`, which gives losses only. "
            "Give one: `readout=ClassificationReadout()` for classifiers, `CausalLMReadout()` for language models, or a "
            "`Readout` of your own."
        )
