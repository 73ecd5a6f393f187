from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._states import read_states
from lightning_unlearn.audits.inside._as_original import AuditByOriginal, refuse_flat
from lightning_unlearn.audits.inside._blocks import every_block, named_blocks
from lightning_unlearn.audits.inside._numbered import numbered_observation
from lightning_unlearn.audits.inside._patched import answer_nll
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.depth import depth_scores
from lightning_unlearn.models.layers import blocks
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import PredictingReadout, Readout
from lightning_unlearn.runtime import eval_without_grad, on_every_rank


class KnowledgeDepth(AuditByOriginal):
    r"""Give the original the hidden states of this model, block by block: does it still know the answer?

    .. math:: d_l = \frac1T \sum_t \log p_0(y_t) - \log p_0(y_t \mid h_l \leftarrow h_l^\theta)

    at the positions that predict the right answer. If this model's states after a block serve the original as well as its
    own, the knowledge is there up to that block, whatever the output says. ``depth_lost`` is :math:`d_l`, in nats per token:
    0 for a model whose states are the original's.

    ``depth_kept``, without a layer, is what is left of all that the blocks carry: one minus the unlearning depth score
    :func:`~lightning_unlearn.functional.depth.depth_scores`. What a block carries at most is what the original loses if its
    states there are exchanged for their mean over the split. The published score takes a model that never knew for that:
    where a check has a control, its ``depth_lost`` is in the report, and
    :func:`~lightning_unlearn.report.analysis.unlearning_depth` takes it.

    A fit shows it the original. Outside of one there is ``original``. Of weights that are frozen the fit keeps hashes only:
    under an attack on these, and on a control with others, it observes nothing, and warns; with ``original`` it does not
    depend on that. It costs two passes for each block, and three more, over the forget split.

    Args:
        original: Weights of the original, where no fit shows it: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder.

    Raises:
        ValueError: When it is run, if the network is no causal language model; if the original is not known; under FSDP1 and
            DeepSpeed.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> from lightning_unlearn.data import load_probe
        >>> from lightning_unlearn.readouts import CausalLMReadout
        >>> network, readout, audit = TinyCausalLM(hidden_size=32), CausalLMReadout(), KnowledgeDepth()
        >>> audit.see_original(network)
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> probes = {"forget": load_probe([batch], readout)}
        >>> found = audit(network, readout=readout, probes=probes, engine=GradientEngine(network))
        >>> [(o.metric, o.layer, o.value) for o in found][0]
        ('depth_lost', 'model.layers.0', 0.0)

    References:
        `Unlearning Depth Score <https://arxiv.org/abs/2605.24614>`_, 2026. The mean in place of a retain model is ours.
    """

    @override
    def definitions(self) -> dict[str, str]:
        return {
            "depth_lost": "How much surer of the right answer the original model is with its own inner states at a layer "
            "than with those of this model; 0 means that everything needed for the answer is still there.",
            "depth_kept": "How much of what the original's layers carry of the answer is still inside this model, from 0 to "
            "1, whatever it says.",
        }

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        names = named_blocks(network, "KnowledgeDepth")
        refuse_flat(engine, "KnowledgeDepth")
        if "forget" not in probes or not self.can_be_original(network):
            return []
        probe = probes["forget"]
        reader = PredictingReadout(every_block(names))
        batches = [batch for batch, _, _ in probe.batches]

        def states() -> list[Tensor]:
            # Batch by batch to the CPU: states of all blocks at all tokens would not fit beside a large network.
            read = (read_states(network, readout=reader, batches=[b], engine=engine)[0].features for b in batches)
            return [features.cpu() for features in read if features is not None]

        live = states()
        with self.as_original(network):
            mean = _mean(states(), [counts for _, _, counts in probe.batches])
            found = [_of_batch(network, engine, b, live[i], mean) for i, b in enumerate(batches)]
        own = {
            int(number): values[row].tolist()
            for (_, index, counts), values in zip(probe.batches, found, strict=True)
            for row, number in (enumerate(index) if counts else ())
            if not values[row].isnan().any()
        }
        return _observed(probe, names, {n: v for share in on_every_rank(own) for n, v in share.items()})


def _of_batch(network: nn.Module, engine: GradientEngine, batch: Any, live: Tensor, mean: Tensor) -> Tensor:
    """What the original loses of each example at each block, by this model's states and by the mean, ``[B, 2, L]``."""
    on_device = engine.to_device(batch)

    def nll(block: nn.Module | None = None, states: Tensor | None = None) -> Tensor:
        run: Callable[[Any], Tensor] = lambda b: answer_nll(network, b, block, states)  # noqa: E731
        with eval_without_grad(network):
            return engine.forward(run, on_device).cpu().double()

    own = nll()
    stack = list(blocks(network).values())
    by_live = [nll(block, live[:, place]) - own for place, block in enumerate(stack)]
    by_mean = [nll(block, mean[place].expand_as(live[:, place])) - own for place, block in enumerate(stack)]
    return torch.stack([torch.stack(by_live, -1), torch.stack(by_mean, -1)], dim=1)


def _mean(states: list[Tensor], counts: list[bool]) -> Tensor:
    """Mean state of each block over all tokens of all processes, ``[L, D]``. Collective."""
    own = [each.double() for each, counted in zip(states, counts, strict=True) if counted]
    shares = on_every_rank((sum(each.sum(0) for each in own), sum(len(each) for each in own)))
    total = sum(share for share, _ in shares)
    mean: Tensor = (total / max(sum(rows for _, rows in shares), 1)).float()
    return mean


def _observed(probe: Probe, names: list[str], by_number: Mapping[int, list[list[float]]]) -> list[Observation]:
    numbers = sorted(by_number)
    if not numbers:
        return []
    lost, most = torch.tensor([by_number[n] for n in numbers], dtype=torch.float64).unbind(1)
    found = [
        numbered_observation(
            "forget",
            probe,
            "depth_lost",
            dict(zip(numbers, of_layer.tolist(), strict=True)),
            higher_means_known=False,
            layer=name,
        )
        for name, of_layer in zip(names, lost.T, strict=True)
    ]
    kept = 1 - depth_scores(lost, most)
    # An answer that no block of the original carries cannot be lost.
    carried = (~kept.isnan()).nonzero()[:, 0].tolist()
    if carried:
        about: dict[str, Any] = {"higher_means_known": True, "bounds": (0.0, 1.0)}
        scores = {numbers[place]: float(kept[place]) for place in carried}
        found.append(numbered_observation("forget", probe, "depth_kept", scores, **about))
    return found
