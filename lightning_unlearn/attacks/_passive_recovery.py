from __future__ import annotations

from math import floor
from typing import Any

from typing_extensions import override

from lightning_unlearn.attacks._relearn_in_turn import RelearnInTurn
from lightning_unlearn.functional.settings import check_between


class PassiveRecovery(RelearnInTurn):
    r"""Go on training on what is kept, where what must go recurs now and then: recovery without anybody who wants it.

    Of :math:`t` steps, :math:`\lfloor t \varphi \rfloor` are on the attacker's data, evenly spaced, without chance. One
    curve for each frequency: ``AttackGrid(PassiveRecovery(), over={"frequency": [0.01, 0.1, 1.0]})``. With ``frequency=1``
    it is :class:`Relearn`; with 0 nothing recurs, which shows what further training alone does.

    Args:
        frequency: :math:`\varphi`, the share of steps on the attacker's data, from 0 to 1.
        **kwargs: As in :class:`RelearnInTurn` and :class:`Relearn`: ``beside``, ``steps``, ``lr`` and so on.

    Example:
        >>> [step for step in range(12) if PassiveRecovery(frequency=0.25).has_turn(step)]
        [3, 7, 11]

    References:
        The stream is that of Lesort et al., `Challenging Common Assumptions about Catastrophic Forgetting
        <https://arxiv.org/abs/2207.04543>`_, 2022, seen as an audit.
    """

    def __init__(self, frequency: float = 0.1, **kwargs: Any) -> None:
        check_between("frequency", frequency, 0, 1)
        super().__init__(**kwargs)
        self.frequency = frequency

    @override
    def has_turn(self, step: int) -> bool:
        return floor((step + 1) * self.frequency) > floor(step * self.frequency)
