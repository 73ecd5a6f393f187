"""What attackers train on: found by name, and without the facts by which they are judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.attacks import Attack
from lightning_unlearn.checks._overlap import overlap_of
from lightning_unlearn.checks._probes import find_forget, find_retain
from lightning_unlearn.data import DataSource, Probe, in_order, loader_of, sources_by_name
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import Readout

_RETAIN = "retain"
"""The name of what the fit keeps, for an attack that trains on it beside its own data."""


@dataclass
class AttackersData:
    """The data of all attackers of a check.

    Args:
        given: One source, several by name, or ``None`` for what the datamodule has.
        overlaps: What was measured, by attacker's data.
    """

    given: DataSource | Mapping[str, DataSource] | None
    overlaps: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)

    def refuse_unknown(self, trainer: pl.Trainer, attacks: Mapping[str, Attack]) -> None:
        """Refuse attacks that name data which are not there.

        Raises:
            ValueError: With the names that are there.
        """
        wanted = {name: _names(attack) for name, attack in attacks.items()}
        if not any(wanted.values()):
            return
        known = self._known(trainer)
        for attack, names in wanted.items():
            if missing := [name for name in names if name not in known]:
                there = f"There are `{'`, `'.join(known)}`." if known else "There are none with names."
                raise ValueError(
                    f"The data of the attack `{attack}` should be there. Found none named `{missing[0]}`. {there} Give "
                    f'`RecoveryCheck(attack_data={{"{missing[0]}": ...}})`, or `ForgetRetainData(attack=...)` likewise.'
                )

    def refuse_facts(self, attacks: Mapping[str, Attack], forget: Probe | None) -> None:
        """Refuse attackers with some of the facts where it is not known which there are.

        Raises:
            ValueError: See :class:`FactSplit`; without a forget probe.
        """
        for name, attack in attacks.items():
            if attack.facts is not None and forget is None:
                raise ValueError(
                    f"The attack `{name}` should be judged by the facts that it does not have. Found no `forget` probe. "
                    'Give `RecoveryCheck(probes={"forget": ...})`.'
                )
            if attack.facts is not None and forget is not None:
                attack.facts.judged_examples(forget)

    def loader(self, trainer: pl.Trainer, name: str | None) -> Iterable[Any]:
        """The data of a name; without one those given alone, else the datamodule's, else the forget data."""
        own = sources_by_name(self.given)
        data: Any = getattr(trainer, "datamodule", None)
        if name is not None:
            found: Iterable[Any] = (
                loader_of(own[name], f"`{name}` attack", trainer) if name in own else data.attack_dataloaders()[name]
            )
            return found
        if self.given is not None and not own:
            return loader_of(self.given, "attack", trainer)
        return data.attack_dataloader() if hasattr(data, "attack_dataloader") else find_forget(trainer, "RecoveryCheck")

    def _known(self, trainer: pl.Trainer) -> list[str]:
        data: Any = getattr(trainer, "datamodule", None)
        theirs = data.attack_dataloaders() if hasattr(data, "attack_dataloaders") else {}
        return sorted({*sources_by_name(self.given), *theirs})

    def batches(
        self, trainer: pl.Trainer, engine: GradientEngine, attack: Attack, forget: Probe | None
    ) -> Iterable[Any]:
        """What ``attack`` is to be given, on the device.

        Args:
            trainer: Of the fit.
            engine: Knows the device.
            attack: Says what it needs.
            forget: What it is judged by, if it has only some of the facts.
        """
        if attack.needs_data is None:
            return ()
        if attack.needs_data == "retain":
            return _OnDevice(in_order(find_retain(trainer)), engine)
        own = [engine.to_device(batch) for batch in self._own(trainer, attack, forget)]
        if attack.needs_data != "both":
            return own
        beside = find_retain(trainer) if attack.beside == _RETAIN else self.loader(trainer, attack.beside)
        return {"attack": own, "beside": _OnDevice(in_order(beside), engine)}

    def overlap(self, trainer: pl.Trainer, readout: Readout, attack: Attack, forget: Probe | None) -> dict[str, Any]:
        """How much of what ``attack`` is judged by stands in its data; empty if it has none of its own."""
        if attack.needs_data in (None, "retain") or forget is None:
            return {}
        key = attack.data, attack.facts, attack.batches_read(), forget.content_hash
        if key not in self.overlaps:
            numbers = range(forget.size) if attack.facts is None else sorted(attack.facts.judged_examples(forget))
            ordered = in_order(self._loader_of(trainer, attack, forget))
            self.overlaps[key] = overlap_of(forget, numbers, ordered, attack.batches_read(), readout)
        return self.overlaps[key]

    def _own(self, trainer: pl.Trainer, attack: Attack, forget: Probe | None) -> Iterator[Any]:
        # No more than it reads: all of it goes to the device.
        return islice(iter(in_order(self._loader_of(trainer, attack, forget))), attack.batches_read())

    def _loader_of(self, trainer: pl.Trainer, attack: Attack, forget: Probe | None) -> Iterable[Any]:
        loader = self.loader(trainer, attack.data)
        return loader if attack.facts is None or forget is None else attack.facts.without_judged(loader, forget)


@dataclass(frozen=True)
class _OnDevice:
    """Batches that go to the device one by one: they may be all that a fit trains on."""

    batches: Iterable[Any]
    engine: GradientEngine

    def __iter__(self) -> Iterator[Any]:
        return map(self.engine.to_device, self.batches)


def _names(attack: Attack) -> list[str]:
    """The data that an attack names."""
    beside = [attack.beside] if attack.needs_data == "both" and attack.beside != _RETAIN else []
    return [*([] if attack.data is None else [attack.data]), *beside]
