from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits.membership._codes import Codes, mean_states, overlap_with_closest
from lightning_unlearn.audits.membership._comparison import Comparison
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models.layers import blocks
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import LayersReadout, Readout, is_language_model
from lightning_unlearn.runtime import Misfit

_WORDS = (
    "How much the inside of the model, while it reads an answer, looks like the closest of all that it was trained on and "
    "keeps."
)


class Familiarity(Audit):
    r"""How familiar hidden states are: the overlap of a sparse code with the closest stored one, and membership by it.

    The authors define familiarity for an architecture of their own. This carries its principle over to the hidden states
    of any network, and is ours; no published number is comparable. Take it as a question put to the layers, not as proof.

    A hidden state of a layer, the mean over the tokens of an answer, is cut into :math:`Q` modules of ``units`` units. In
    each the unit wins that is furthest above its own mean over the stored answers, in standard deviations. The winners are
    the code. The familiarity of an answer is

    .. math:: G = \max_{c \in \text{stored}} \; \frac{1}{Q} \sum_q \bigl[ \text{winner}_q = c_q \bigr]

    over answers of ``stored`` about other entities; chance for one of them is one in ``units``. For each layer there is
    ``familiarity`` on the forget split and on the holdout, and the AUC between the two as in :class:`Membership`. One
    forward pass per batch reads all layers. Nothing is fitted.

    Args:
        layers: Regular expressions for names of layers, as in :class:`LayersReadout`. Defaults to all blocks.
        stored: Name of the split of what the network was trained on, and keeps.
        holdout: Name of the split of examples that nobody was trained on.
        units: Units of a module.

    Raises:
        Misfit: If a split is missing, or the network is no language model.

    Example:
        >>> Familiarity(units=8)
        Familiarity(stored='retain', holdout='holdout', units=8)

    References:
        Rinkus, `Sparsey <https://doi.org/10.3389/fncom.2014.00160>`_, 2014, for familiarity as overlap of winners.
    """

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        stored: str = "retain",
        holdout: str = "holdout",
        units: int = 8,
    ) -> None:
        check_whole("units", units, least=2)
        self.layers = None if layers is None else LayersReadout(layers)
        self.stored, self.holdout, self.units = stored, holdout, units
        self._compare = Comparison(holdout, false_positive_rates=())

    @override
    def definitions(self) -> dict[str, str]:
        return {"familiarity": _WORDS, **self._compare.definitions("familiarity", _WORDS)}

    @override
    def refuse(self, probes: Mapping[str, Probe]) -> None:
        self._compare.refuse_missing(probes, "Familiarity")

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        self.refuse(probes)
        self._refuse_unfit(network, probes)
        reader = self.layers or LayersReadout([re.escape(name) for name in blocks(network)])
        names = list(reader.find_layers(network))
        splits = dict.fromkeys([self.stored, "forget", self.holdout])
        states = {split: mean_states(network, reader, probes[split], engine) for split in splits}
        if not all(each.numbers for each in states.values()):
            return []
        code = Codes(self.units, states[self.stored])
        codes = {split: code(each) for split, each in states.items()}
        who = {split: [probes[split].clusters[n] for n in each.numbers] for split, each in states.items()}
        scores: dict[str, Tensor] = {
            split: overlap_with_closest(codes[split], who[split], codes[self.stored], who[self.stored])
            for split in ("forget", self.holdout)
        }
        found: list[Observation] = []
        for place, layer in enumerate(names):
            of_layer = {split: each[:, place].tolist() for split, each in scores.items()}
            for split, of_split in of_layer.items():
                about = {"higher_means_known": True, "bounds": (0.0, 1.0), "layer": layer}
                found += observations_of(split, probes[split], "familiarity", of_split, **about)
            found += self._compare("familiarity", of_layer, probes, higher_means_known=True, layer=layer)
        return found

    def _refuse_unfit(self, network: nn.Module, probes: Mapping[str, Probe]) -> None:
        if self.stored not in probes:
            raise Misfit(
                f"`Familiarity` should get what the network was trained on, as a split `{self.stored}`. Found "
                f'`{"`, `".join(probes)}`. Give it as `RecoveryCheck(probes={{"{self.stored}": ...}})`.'
            )
        if not is_language_model(network):
            raise Misfit(
                "`Familiarity` should get a language model, whose layers give a state per token. Found "
                f"`{type(network).__name__}`. Leave it out of `audits`."
            )
