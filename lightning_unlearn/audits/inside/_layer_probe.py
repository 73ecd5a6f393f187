from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.audits.inside._blocks import ALL_BLOCKS, named_blocks, stacked, states_at_prompt_ends
from lightning_unlearn.audits.inside._fresh import fresh_network
from lightning_unlearn.audits.inside._pools import refuse_shared
from lightning_unlearn.audits.inside._probing import ProbedLayers, linear_areas, probe_layers
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit, on_every_rank

_INVALID = "invalid: edited on probe pool"


class LayerProbe(Audit):
    """Fit fresh probes to the hidden states of every block: do they still tell what must go from what was never taught?

    **What is probed.** A row is the hidden state at the end of a question, before the answer. Its label is whether the
    question is of the split ``forget``, or of the split ``against``: others of the same form, of entities that the model
    never saw. So the probe reads *familiarity*, not the wording of an answer. Against a split that was taught as well, such
    as ``retain``, it reads something else: whether unlearning left a mark by which the forgotten can be told. No entity is
    in both pools, of fitting and of judging.

    **What it is compared with.** Labels of whole entities are shuffled for p-values; the best block is compared with the
    best under each shuffle. ``probe_selectivity`` takes off what the same probe reaches on random labels,
    ``probe_beyond_random`` what it reaches on a network of the same configuration with random weights: that part is in the
    words of the questions. ``probe_auc`` without a layer is that of the best block. The control and the original are
    probed in the same way wherever a check has them.

    **What it does not say.** That a probe finds nothing does not show that nothing is left. If the means of the two classes
    are made equal on the rows that the probe is judged by, it falls to chance or below whatever is left: then there is no
    area, ``probe_invalid`` is 1, and a warning says so.

    Args:
        against: The split of others. Give it as ``RecoveryCheck(probes={"holdout": ...})``.
        permutations: Shuffled labellings, for p-values.
        hidden: Width of the hidden layer of the second probe.
        random_start: Compare with a network of random weights. It is built once, beside the live one, and read once.
        seed: Of all that is drawn. Global random numbers are left alone.

    Raises:
        ValueError: When it is run, if the network is no causal language model; if there is no split ``against``; if a split
            has fewer than two entities, or they share one.

    Example:
        >>> LayerProbe(against="strangers")
        LayerProbe(against='strangers', permutations=500, hidden=64, random_start=True, seed=0)
    """

    def __init__(
        self,
        against: str = "holdout",
        permutations: int = 500,
        hidden: int = 64,
        random_start: bool = True,
        seed: int = 0,
    ) -> None:
        check_whole("permutations", permutations, least=20)
        check_whole("hidden", hidden)
        if not isinstance(against, str) or against in ("", "forget"):
            raise ValueError(
                f'`against` should be the name of a split other than "forget". Found `against = {against!r}`.'
            )
        self.against, self.permutations, self.hidden = against, permutations, hidden
        self.random_start, self.seed = random_start, seed
        self._fresh: dict[str, list[float]] = {}

    @override
    def definitions(self) -> dict[str, str]:
        return {
            "probe_auc": "How well a simple classifier tells, from the inside of the model, questions about what must go "
            "from questions about people or things it never saw; 0.5 is chance, 1 is always.",
            "probe_mlp_auc": "The same with a small neural network as the classifier.",
            "probe_selectivity": "How much of that is more than the classifier reaches on labels drawn at random.",
            "probe_beyond_random": "How much of that is more than can be read from a model with random weights.",
            "probe_q_value": "How likely such a find at this layer is to be luck, after allowing for the number of layers.",
            "probe_p_value": "How often chance alone gives as good a best layer.",
            "probe_invalid": "1 if the inside of the model was edited on the very questions it is probed with, so that a "
            "probe shows nothing.",
        }

    @override
    def refuse(self, probes: Mapping[str, Probe]) -> None:
        if "forget" not in probes:
            return
        if self.against not in probes:
            raise Misfit(
                f"`LayerProbe` should find the split `{self.against}`, of entities that the model never saw. Found "
                f'`{"`, `".join(probes)}`. Give it as `RecoveryCheck(probes={{"{self.against}": ...}})`, or name '
                "another one as `against`."
            )
        named = [list(dict.fromkeys(probes[split].entities)) for split in ("forget", self.against)]
        if all(named):
            refuse_shared(named)

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        names = named_blocks(network, "LayerProbe")
        if "forget" not in probes:
            return []
        self.refuse(probes)
        sides = [probes["forget"], probes[self.against]]
        read = [states_at_prompt_ends(network, probe, engine, names) for probe in sides]
        if not all(read):
            return []
        labels = torch.tensor([True] * len(read[0]) + [False] * len(read[1]))
        entities = [probe.clusters[number] for probe, found in zip(sides, read, strict=True) for number in found]
        if any(not probe.entities for probe in sides):  # else "example 0" would be in both
            entities = [f"{name} {bool(label)}" for name, label in zip(entities, labels, strict=True)]
        states = torch.cat([stacked(found) for found in read], dim=1)
        found = probe_layers(
            states, labels, entities, permutations=self.permutations, hidden=self.hidden, seed=self.seed
        )
        random = self._of_random_weights(network, sides, engine, labels, entities) if self.random_start else []
        # The same everywhere: processes on other machines may round in another way.
        agreed: list[Observation] = on_every_rank(_observations(names, found, random))[0]
        return agreed

    def _of_random_weights(
        self, network: nn.Module, sides: list[Probe], engine: GradientEngine, labels: Tensor, entities: list[str]
    ) -> list[float]:
        """The areas of a network that was never trained. It does not change, and is read once for the same questions."""
        key = " ".join(probe.content_hash for probe in sides)
        if key not in self._fresh:
            fresh = fresh_network(network, self.seed)
            names = named_blocks(fresh, "LayerProbe")
            read = [states_at_prompt_ends(fresh, probe, engine, names) for probe in sides]
            states = torch.cat([stacked(found) for found in read], dim=1)
            self._fresh[key] = linear_areas(states, labels, entities, seed=self.seed)
        return self._fresh[key]


def _observations(names: list[str], found: ProbedLayers, random: list[float]) -> list[Observation]:
    observations: list[Observation] = []
    sound = [layer for layer in found.layers if layer.verdict != _INVALID]
    if len(sound) < len(found.layers):
        rank_zero_warn(
            f"`LayerProbe` found {len(found.layers) - len(sound)} of {len(found.layers)} blocks {_INVALID}: the means of "
            "both classes are equal on the questions that it probes with, closer than chance has them. Nothing follows "
            "from a probe there, least of all that it is erased. Probe with questions that no edit has seen."
        )
    if sound:
        best = max(sound, key=lambda layer: layer.auc)
        observations += [_of("probe_auc", best.auc, "", (0.5, 1.0), interval=best.interval)]
        observations += [_of("probe_p_value", found.p_value, ALL_BLOCKS, (0.0, 1.0), higher_means_known=False)]
    for number, (name, layer) in enumerate(zip(names, found.layers, strict=True)):
        invalid = layer.verdict == _INVALID
        observations.append(_of("probe_invalid", float(invalid), name, (0.0, 1.0)))
        if invalid:
            continue
        observations.append(_of("probe_auc", layer.auc, name, (0.5, 1.0), interval=layer.interval))
        observations.append(_of("probe_mlp_auc", layer.mlp_auc, name, (0.5, 1.0)))
        observations.append(_of("probe_selectivity", layer.selectivity, name, None))
        observations.append(_of("probe_q_value", layer.q_value, name, (0.0, 1.0), higher_means_known=False))
        if random:
            observations.append(_of("probe_beyond_random", layer.auc - random[number], name, None))
    return observations


def _of(metric: str, value: float, layer: str, bounds: tuple[float, float] | None, **about: Any) -> Observation:
    return Observation(metric=metric, split="forget", value=value, layer=layer, bounds=bounds, **about)
