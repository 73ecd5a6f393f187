from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet


class BalancedOrder(Order):
    """Every forget row once, shuffled, with retain rows of all entities alike, however many rows each has.

    In one epoch no entity comes more than once oftener than another. The rows of an entity take turns over the epochs, each
    once before any comes again.

    Example:
        >>> class Rows(list):
        ...     entities = ["Ada", "Ada", "Ada", "Bo"]
        >>> rows = BalancedOrder().rows(RowSet("abcd", 1), RowSet(Rows("efgh"), 1), seed=0, epoch=0)
        >>> rows.retain.count(3)
        2

    References:
        Called balanced sampling in `MELU <https://arxiv.org/abs/2509.05316>`_, 2025.
    """

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        groups = list(retain.groups().values())
        wanted = retain.rows_for(forget)
        rounds = -(-wanted // len(groups))
        drawn = [
            _turn(groups[number], epoch * rounds + turn, seed, number)
            for turn in range(rounds)
            # Odd, as for the retain rows of `RandomOrder`; three numbers, so that no round is one of its rounds.
            for number in shuffled(len(groups), seed, 2 * epoch + 1, turn)
        ]
        return EpochRows(shuffled(len(forget), seed, 2 * epoch), drawn[:wanted])


def _turn(group: list[int], turn: int, seed: int, number: int) -> int:
    """The row whose turn it is: all of a group in one order, then all in another."""
    cycle, place = divmod(turn, len(group))
    return group[shuffled(len(group), seed, number, cycle)[place]]
