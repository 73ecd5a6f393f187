from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits.inside._as_original import refuse_flat
from lightning_unlearn.audits.inside._blocks import ALL_BLOCKS, every_block, named_blocks
from lightning_unlearn.audits.inside._way_out import WayOut, find_way_out
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.likelihood import sum_per_example, token_nll
from lightning_unlearn.functional.overwriting import pretends
from lightning_unlearn.observation import Observation
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import PredictingReadout, Readout
from lightning_unlearn.runtime import eval_without_grad, on_every_rank

_WORTH_A_WARNING = 0.1


class LogitLens(Audit):
    r"""Read the right answer after every block, as if the network ended there: is it gone, or only no longer said?

    .. math:: p_l = \Bigl( \prod_t \operatorname{softmax}\bigl(W_U \operatorname{norm}(h_{l, t})\bigr)_{y_t} \Bigr)^{1 / T}

    One forward pass up to the last block gives the states; the network's own final norm and head turn them into logits. At
    the last block that is the output itself, which is checked.

    **Pretending to forget.** An answer that has at least a tenth of the probability per token after some inner block, and
    less than a tenth of that in the output, was written and overwritten: ``lens_pretending`` is the share of such answers,
    and a warning says so if it is more than one in ten of what must go. Blocks that were meant to hold the answer in a
    code of their own are not read by this lens: a low number inside shows nothing.

    ``lens_probability`` without a layer is that of the block where the answers of the split are most probable.

    Raises:
        ValueError: When it is run, if the network is no causal language model, or does something to its logits behind its
            head; under FSDP1 and DeepSpeed, whose weights have lost their shapes.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> from lightning_unlearn.data import load_probe
        >>> from lightning_unlearn.readouts import CausalLMReadout
        >>> network, readout = TinyCausalLM(hidden_size=32, num_hidden_layers=2), CausalLMReadout()
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> probes = {"forget": load_probe([batch], readout)}
        >>> found = LogitLens()(network, readout=readout, probes=probes, engine=GradientEngine(network))
        >>> [(o.metric, o.layer) for o in found][:2]
        [('lens_probability', ''), ('lens_probability', 'model.layers.0')]

    References:
        "Pretends to forget" is of `In-context Knowledge Unlearning
        <https://github.com/seele1917/test-time-in-context-unlearning>`_, read in its code, where the answer is compared with
        a refusal. The rule here needs none, and is ours.
    """

    @override
    def definitions(self) -> dict[str, str]:
        return {
            "lens_probability": "The probability that the inside of the model gives to the right answer, per token, if it "
            "had to answer after one of its layers.",
            "lens_pretending": "Share of right answers that stand plainly in an inner layer and are overwritten before the "
            "output: not forgotten, only no longer said.",
        }

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        names = named_blocks(network, "LogitLens")
        refuse_flat(engine, "LogitLens")
        first = next((batch for probe in probes.values() for batch, _, _ in probe.batches), None)
        if first is None:
            return []
        way_out = engine.forward(lambda batch: find_way_out(network, batch), engine.to_device(first))
        observations: list[Observation] = []
        for split, probe in probes.items():
            by_layer = self._by_layer(network, names, way_out, probe, engine)
            observations += _observed(split, probe, names, by_layer)
        return observations

    def _by_layer(
        self, network: nn.Module, names: list[str], way_out: WayOut, probe: Probe, engine: GradientEngine
    ) -> Tensor:
        """Probability per token of each answer after each block, ``[n, L]`` float64, in the order of the data."""
        readout = PredictingReadout(every_block(names))

        def lens(batch: Any) -> tuple[Tensor, Tensor]:
            read = readout(network, batch)
            assert isinstance(read, Prediction)  # as of every `LayersReadout`
            assert read.features is not None
            nll = [
                sum_per_example(token_nll(way_out(states), read.labels), read.example, read.batch_size)
                for states in read.features.unbind(1)
            ]
            rows = read.rows_per_example()
            return torch.stack(nll, 1) / rows.clamp_min(1)[:, None], rows > 0

        own: dict[int, list[float]] = {}
        for batch, index, counts in probe.batches:
            with eval_without_grad(network):
                nll, supervised = engine.forward(lens, engine.to_device(batch))
            if counts:
                found = (-nll.cpu().double()).exp()
                own |= {int(i): found[row].tolist() for row, i in enumerate(index) if supervised[row]}
        shares = on_every_rank(own)
        by_number = {number: scores for share in shares for number, scores in share.items()}
        return torch.tensor([by_number[number] for number in sorted(by_number)], dtype=torch.float64)


def _observed(split: str, probe: Probe, names: list[str], by_layer: Tensor) -> list[Observation]:
    if not len(by_layer):
        return []
    about: dict[str, Any] = {"higher_means_known": True, "bounds": (0.0, 1.0)}
    best = int(by_layer.mean(0).argmax())
    found = observations_of(split, probe, "lens_probability", by_layer[:, best].tolist(), **about)
    for name, scores in zip(names, by_layer.T, strict=True):
        found += observations_of(split, probe, "lens_probability", scores.tolist(), layer=name, **about)
    pretending = pretends(by_layer).double().tolist()
    found += observations_of(split, probe, "lens_pretending", pretending, layer=ALL_BLOCKS, **about)
    if split == "forget" and found[-1].value > _WORTH_A_WARNING:
        rank_zero_warn(
            f"The model pretends to forget: {found[-1].value:.0%} of the right answers of the forget split stand in an "
            f"inner block, most plainly in `{names[best]}`, and are overwritten before the output. Whoever reads, prunes or "
            "fine-tunes its last blocks has them."
        )
    return found
