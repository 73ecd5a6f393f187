from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lightning_unlearn.attacks import Attack
from lightning_unlearn.functional.settings import check_kind, check_whole

_REACH = 8


@dataclass(frozen=True)
class Under:
    """Attacks inside of which the forget gradient is taken.

    Args:
        attacks: By name; ``None`` for none.
        every: In every how many optimizer steps they are met.
        retain: Whether the retain gradient is taken there, too.

    Raises:
        TypeError: If they are no mapping of attacks.
        ValueError: If a setting is out of its range, or needs attacks, and there are none; if an attack only asks in other
            words, and the gradient would be the same there.
    """

    attacks: Mapping[str, Attack] | None = None
    every: int = 1
    retain: bool = False

    def __post_init__(self) -> None:
        if self.attacks is not None and not isinstance(self.attacks, Mapping):
            raise TypeError(
                "`under` should be a mapping from names to attacks, such as `{'relearn': Relearn(steps=20)}`. Found "
                f"`{type(self.attacks).__name__}`."
            )
        for name, attack in self:
            if not isinstance(name, str) or not name or "/" in name:
                raise ValueError(f"Names of attacks in `under` should be words without `/`. Found {name!r}.")
            check_kind(f"under[{name!r}]", attack, Attack, "Relearn(steps=20)")
            _refuse_data_of_checks(name, attack)
            if type(attack).asks is not Attack.asks:
                raise ValueError(
                    f"`under` should hold attacks that change the network. Found `{type(attack).__name__}`, which only asks "
                    "in other words. Give these words as forget data, and the attack to `RecoveryCheck`."
                )
        check_whole("under_every", self.every)
        if self.retain and not self.attacks:
            raise ValueError(
                "`under_retain=True` should come with attacks to take the retain gradient under. Found none. Give "
                "`under={'int4': Quantize(bits=4)}`, or leave it out."
            )

    def __iter__(self) -> Iterator[tuple[str, Attack]]:
        return iter((self.attacks or {}).items())

    def each(self) -> list[Attack]:
        """The attacks."""
        return [attack for _, attack in self]

    @property
    def reach(self) -> int:
        """How many forget micro-batches an attacker may be given; 0 if none needs any."""
        return _REACH if any(attack.needs_data in ("attack", "forget", "both") for attack in self.each()) else 0

    @property
    def needs_retain(self) -> bool:
        """Whether anything runs on retain data."""
        return self.retain or any(attack.needs_data in ("retain", "both") for attack in self.each())


def _refuse_data_of_checks(name: str, attack: Attack) -> None:
    """Refuse an attack on data that a fit does not have: in its loop an attacker has forget and retain batches."""
    named = {"data": attack.data, "facts": attack.facts, "beside": None if attack.beside == "retain" else attack.beside}
    for setting, value in named.items():
        if value is not None:
            raise ValueError(
                f"`under[{name!r}]` should take the data of the fit. Found `{setting} = {value!r}`, which is for attacks of "
                "`RecoveryCheck`. Leave it out."
            )
