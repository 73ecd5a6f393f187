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
from lightning_unlearn.checks._refusals import refuse_probes
from lightning_unlearn.engine import GradientEngine, isolated
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.observation import NOT_ATTACKED, Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import checksum


@dataclass(frozen=True)
class Examined:
    """A network inside a fit, with all that attacks and audits need.

    Args:
        trainer: The trainer of the fit.
        module: The module that holds the network. It must be the same afterwards.
        network: The network to attack and audit.
        readout: How to run it.
        probes: Questions for the audits, by split.
        attack_batches: Returns the batches that an attacker trains on, on the device.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    network: nn.Module
    readout: Readout
    probes: Mapping[str, Probe]
    attack_batches: Callable[[], list[Any]]

    def __post_init__(self) -> None:
        refuse_probes(self.probes, self.network)

    @property
    def engine(self) -> GradientEngine:
        """Runs the network under the strategy of the fit."""
        return GradientEngine(self.module, self.trainer)


@dataclass(frozen=True)
class AuditsUnderAttack:
    """Runs each audit without an attack, and at each point of each attack. The network stays as it was, bit for bit.

    It does not know whether the network is the model of the fit or the control: both are treated alike.

    Args:
        attacks: The attacks, by the name in logs and reports.
        audits: The audits.
    """

    attacks: Mapping[str, Attack]
    audits: Sequence[Audit]

    def __call__(self, examined: Examined) -> Iterator[list[Observation]]:
        """The observations without an attack, then those of each attack. Collective: every rank must call it.

        An attack that failed gives the observations it made before.
        """
        # Each under its own `isolated`: the second attack starts from the same buffers and random numbers as the first.
        with unchanged(examined.module, "Audits"), isolated(examined.trainer, examined.module):
            alone = self._observe(examined)
        yield alone
        for name, attack in self.attacks.items():
            # The checksum is computed outside of `isolated`, which restores buffers, so that it covers these, too.
            with unchanged(examined.module, f"Attack `{name}`"), isolated(examined.trainer, examined.module):
                observations = self._attacked(name, attack, examined)
            yield observations

    def _attacked(self, name: str, attack: Attack, examined: Examined) -> list[Observation]:
        network, loss = examined.network, CrossEntropy()
        batches = examined.attack_batches() if attack.needs_data else ()
        about: dict[str, Any] = {"attack": name, "attack_config": _settings(attack), "family": attack.family}
        observations: list[Observation] = []
        try:
            with attack(
                network,
                batches=batches,
                loss=lambda batch: loss(examined.readout(network, batch)),
                engine=examined.engine,
            ) as points:
                for point in points:
                    made = self._observe(examined)
                    observations += [replace(o, point=point, unit=attack.unit, **about) for o in made]
        # Any error of an attack: the fit is worth more than one measurement. Restoring weights is checked by `unchanged`.
        except Exception as error:
            rank_zero_warn(f"Attack `{name}` failed, and the fit goes on without it: {type(error).__name__}: {error}")
        return observations

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
    """Make sure that every weight is the same afterwards.

    Raises:
        RuntimeError: If a weight or buffer has changed.
    """
    # Bits of the local shards: no collective, and a rank that differs raises for itself.
    before = checksum(module)
    yield
    if checksum(module) != before:
        raise RuntimeError(
            f"{who} should leave every weight as it was. Found weights that differ: the fit would go on from a changed "
            "model. Restore the last checkpoint, and leave out the culprit."
        )


def _settings(attack: Attack) -> dict[str, Any]:
    plain = (bool, int, float, str, type(None))
    return {"attack": type(attack).__name__, **{k: v for k, v in vars(attack).items() if isinstance(v, plain)}}
