from __future__ import annotations

from typing import Any

from typing_extensions import override

from lightning_unlearn.attacks._relearn_in_turn import RelearnInTurn
from lightning_unlearn.functional.settings import check_whole


class ConceptShift(RelearnInTurn):
    """Teach exchanged labels for some steps, then the right ones for as many, and so on: unlearn, then relearn.

    What returns sooner, shift after shift, than a control learns it was still there. Exchanged answers are made by
    :class:`~lightning_unlearn.data.SwappedAnswers`, or by whatever gives the same questions with each other's labels.

    Args:
        beside: Name of the data with exchanged labels in ``RecoveryCheck(attack_data={...})``.
        every: So many steps on each, the exchanged ones first.
        **kwargs: As in :class:`Relearn`.

    Example:
        >>> attack = ConceptShift("swapped", every=2, steps=6)
        >>> ["right" if attack.has_turn(step) else "swapped" for step in range(6)]
        ['swapped', 'swapped', 'right', 'right', 'swapped', 'swapped']

    References:
        The stream of swapped labels is that of Man et al., `Need is All You Need: Homeostatic Neural Networks Adapt to
        Concept Shift <https://arxiv.org/abs/2205.08645>`_, 2022, seen as an audit.
    """

    def __init__(self, beside: str, every: int = 5, **kwargs: Any) -> None:
        check_whole("every", every)
        super().__init__(beside, **kwargs)
        self.every = every

    @override
    def has_turn(self, step: int) -> bool:
        return step // self.every % 2 == 1
