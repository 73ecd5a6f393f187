from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit, Probe
from lightning_unlearn.engine import GradientEngine, isolated
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.observation import NOT_ATTACKED, Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import checksum


@dataclass(frozen=True)
class Examined:
    """A network inside a fit, and what it is asked.

    Args:
        trainer: The trainer of the fit.
        module: The module that holds the network; none of it may change.
        network: What is attacked and audited.
        readout: How it is run.
        probes: What it is asked, by split.
        attack_batches: Gives what an attacker trains on, on the device.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    network: nn.Module
    readout: Readout
    probes: Mapping[str, Probe]
    attack_batches: Callable[[], list[Any]]

    @property
    def engine(self) -> GradientEngine:
        """How it is run under the strategy of the fit."""
        return GradientEngine(self.module, self.trainer)


@dataclass(frozen=True)
class AuditsUnderAttack:
    """Runs each audit on a network alone, and at each point of each attack; the network stays as it was, bit for bit.

    Whose network it is, is not known here: the model of the fit and the control are served alike.

    Args:
        attacks: By the name they are reported under.
        audits: What is observed.
    """

    attacks: Mapping[str, Attack]
    audits: Sequence[Audit]

    def __call__(self, examined: Examined) -> Iterator[list[Observation]]:
        """The observations without an attack, then those of each attack; none of an attack that failed."""
        with unchanged(examined.module, "Audits"), isolated(examined.trainer, examined.module):
            alone = self._observe(examined)
        yield alone
        for name, attack in self.attacks.items():
            # The checksum is taken outside of `isolated`, which puts buffers back, so that it covers these, too.
            with unchanged(examined.module, f"Attack `{name}`"), isolated(examined.trainer, examined.module):
                observations = self._attacked(name, attack, examined)
            yield observations

    def _attacked(self, name: str, attack: Attack, examined: Examined) -> list[Observation]:
        network, loss = examined.network, CrossEntropy()
        batches = examined.attack_batches() if attack.needs_data else ()
        about: dict[str, Any] = {"attack": name, "attack_config": _settings(attack), "family": attack.family}
        found: list[Observation] = []
        try:
            with attack(
                network,
                batches=batches,
                loss=lambda batch: loss(examined.readout(network, batch)),
                engine=examined.engine,
            ) as points:
                for point in points:
                    found += [replace(o, point=point, unit=attack.unit, **about) for o in self._observe(examined)]
        except Exception as error:
            rank_zero_warn(f"Attack `{name}` failed, and the fit goes on without it: {type(error).__name__}: {error}")
        return found

    def _observe(self, examined: Examined) -> list[Observation]:
        return [
            replace(observation, attack=NOT_ATTACKED)
            for audit in self.audits
            for observation in audit(
                examined.network, readout=examined.readout, probes=examined.probes, engine=examined.engine
            )
        ]


@contextmanager
def unchanged(module: nn.Module, who: str) -> Iterator[None]:
    """Make sure that every weight afterwards is what it was.

    Raises:
        RuntimeError: If not.
    """
    before = checksum(module)
    yield
    if checksum(module) != before:
        raise RuntimeError(
            f"{who} should leave every weight as it was. Found weights that differ: the fit would go on from a changed "
            "model. Restore the last checkpoint, and leave it out."
        )


def _settings(attack: Attack) -> dict[str, Any]:
    plain = (bool, int, float, str, type(None))
    return {"attack": type(attack).__name__, **{k: v for k, v in vars(attack).items() if isinstance(v, plain)}}
