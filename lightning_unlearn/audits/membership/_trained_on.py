"""A holdout has to hold what nobody was trained on."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_unlearn.data import Probe
from lightning_unlearn.runtime import Misfit

_TRAINED = ("forget", "retain")


def refuse_trained_on(holdout: str, probes: Mapping[str, Probe]) -> None:
    """Refuse a holdout with examples of the forget split, or of the retain split as far as it is measured.

    Only texts are compared: of images no more than the class is known.

    Raises:
        Misfit: If there is such an example.
    """
    own = _texts(probes[holdout])
    for split in _TRAINED:
        if split == holdout or split not in probes:
            continue
        if both := own & _texts(probes[split]):
            raise Misfit(
                f"`{holdout}` should hold examples that nobody was trained on. Found {len(both)} of {len(own)} that are in "
                f"`{split}` as well. Take them out of one of the two."
            )


def _texts(probe: Probe) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    pairs = ((tuple(e.question.tolist()), tuple(e.answer.tolist())) for e in probe.exchanges or ())
    return {(question, answer) for question, answer in pairs if question and answer}
