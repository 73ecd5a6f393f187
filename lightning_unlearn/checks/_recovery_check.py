from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks import Attack
from lightning_unlearn.checks._probes import (
    Probe,
    find_attack_data,
    find_probes,
    load_probe,
    measure,
    measuring_readout,
)
from lightning_unlearn.data import DataSource, in_order
from lightning_unlearn.engine import GradientEngine, isolated, refuse_tensor_parallel
from lightning_unlearn.metrics import AnswerProbability, KnowledgeMetric, TokenNLL
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.observation import NOT_ATTACKED, Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import checksum


class RecoveryCheck(pl.Callback):
    """Attack the network during the fit, look at what comes back, and leave the fit bit for bit as it was.

    At the start, every so often, and at the end, each metric is measured on the forget and the retain probes: without an
    attack, and at each point of each attack. Under ``trainer.validate`` and ``trainer.test`` the checks run alone.

    Logged: ``recovery/<attack>/<metric>`` on the forget probe, at the attack's point of most knowledge, and
    ``recovery/<attack>/retain_<metric>`` there; ``none`` is the model left alone.

    An attack that fails is reported and skipped: the fit goes on, undisturbed. Put this callback before
    ``WeightAveraging`` to attack the averaged weights, after it to attack the raw ones.

    Args:
        attacks: What is done to the network, by the name it is logged under.
        metrics: What is measured, by the name it is logged under. Defaults to ``probability`` and ``token_nll``.
        every_n_epochs: Check at the end of every n-th epoch; 0 for never.
        every_n_steps: Check after every n-th optimizer step as well; 0 for never.
        readout: How to run the network. Defaults to what fits the module, as in :class:`Unlearn`.
        probe: How forgetting is measured. Defaults to the datamodule's probe data, else to the forget data.
        retain_probe: How keeping is measured. Defaults to the datamodule's retain data, else to the first batches of what
            the fit trains on.
        attack_data: What an attacker relearns from. Defaults to the datamodule's attack data, else to the forget data.

    Example:
        >>> from lightning_unlearn import Quantize, Relearn
        >>> check = RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=20)})
    """

    def __init__(
        self,
        attacks: dict[str, Attack] | None = None,
        metrics: dict[str, KnowledgeMetric] | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int = 0,
        readout: Readout | None = None,
        probe: DataSource | None = None,
        retain_probe: DataSource | None = None,
        attack_data: DataSource | None = None,
    ) -> None:
        if every_n_epochs < 0 or every_n_steps < 0:
            raise ValueError(
                "`every_n_epochs` and `every_n_steps` should be at least 0. Found "
                f"`every_n_epochs = {every_n_epochs}`, `every_n_steps = {every_n_steps}`."
            )
        self.attacks = dict(attacks or {})
        if NOT_ATTACKED in self.attacks:
            raise ValueError(f'`attacks` should not use the name "{NOT_ATTACKED}": it is the model left alone.')
        self.metrics = metrics or {"probability": AnswerProbability(), "token_nll": TokenNLL()}
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.readout = readout
        self.probe, self.retain_probe, self.attack_data = probe, retain_probe, attack_data
        self.observations: list[Observation] = []
        self.restored: bool | None = None
        self._checked_step = -1
        self._loaded = {"global_step": 0, "epoch": 0}
        self._probes: dict[str, Probe] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        refuse_tensor_parallel(trainer, "RecoveryCheck")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the original."""
        if not self.observations:
            self._send(trainer, self.check(trainer, pl_module))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check after every n-th step; never between the micro-batches of one."""
        if (
            self.every_n_steps
            and self._checked_step < trainer.global_step
            and trainer.global_step % self.every_n_steps == 0
        ):
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after every n-th epoch, in time for ``ModelCheckpoint`` and ``EarlyStopping`` to monitor it."""
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and self._checked_step < trainer.global_step:
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what came out, if that was not just done. Nothing can be monitored any more: straight to the loggers."""
        if self._checked_step < trainer.global_step:
            self._send(trainer, self.check(trainer, pl_module))

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checks alone, under ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checks alone, under ``trainer.test``."""
        self._log(pl_module, self.check(trainer, pl_module))

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """Look at the model alone and under each attack.

        Returns:
            What is to be logged, by key. Every look is kept in :attr:`observations`.
        """
        readout = measuring_readout(trainer, pl_module, self.readout)
        network = readout.find_network(pl_module)
        engine = GradientEngine(pl_module, trainer)
        self._drop_scores()
        step, _ = self._when(trainer)
        self.observations = [
            observation for observation in self.observations if observation.step != step
        ]  # a second look takes its place
        values: dict[str, Tensor] = {}
        for name, attack in {NOT_ATTACKED: None, **self.attacks}.items():
            before = checksum(pl_module)
            with isolated(trainer, pl_module):
                looks = self._attempt(name, attack, network, readout, engine)
            self.restored = self.restored is not False and checksum(pl_module) == before
            if not self.restored:
                raise RuntimeError(
                    f"Attack `{name}` should leave every weight as it was. Found weights that differ: the fit would go on "
                    "from an attacked model. Restore the last checkpoint, and drop this attack."
                )
            self.observations += looks
            values.update(_worst(name, looks))
        self._checked_step = step
        return values

    def about_data(self) -> dict[str, dict[str, Any]]:
        """Size, entities and content hash of each probe, for the report."""
        return {
            split: {"n": probe.size, "entities": len(set(probe.entities)), "content_hash": probe.content_hash}
            for split, probe in (self._probes or {}).items()
        }

    @override
    def state_dict(self) -> dict[str, Any]:
        """Every look so far, as plain values."""
        return {
            "observations": [asdict(observation) for observation in self.observations],
            "checked_step": self._checked_step,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the looks of the interrupted run back."""
        self.observations = [Observation(**observation) for observation in state_dict["observations"]]
        self._checked_step = state_dict["checked_step"]

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember how long its model was trained: outside a fit the trainer does not know."""
        self._loaded = {name: int(checkpoint[name]) for name in ("global_step", "epoch")}

    def _when(self, trainer: pl.Trainer | None) -> tuple[int, int]:
        """Step and epoch of the model at hand."""
        if trainer is None:
            return 0, 0
        if trainer.state.fn == TrainerFn.FITTING:
            return trainer.global_step, trainer.current_epoch
        return max(trainer.global_step, self._loaded["global_step"]), max(trainer.current_epoch, self._loaded["epoch"])

    def _attempt(
        self, name: str, attack: Attack | None, network: torch.nn.Module, readout: Readout, engine: GradientEngine
    ) -> list[Observation]:
        probes = self._load_probes(engine, readout)
        if attack is None:
            return self._look(name, None, 0, probes, network, readout, engine)
        looks: list[Observation] = []
        loss = CrossEntropy()
        batches = self._attack_batches(engine) if attack.needs_data else ()
        try:
            with attack(network, batches=batches, loss=lambda b: loss(readout(network, b)), engine=engine) as points:
                for point in points:
                    looks += self._look(name, attack, point, probes, network, readout, engine)
        except Exception as error:
            rank_zero_warn(f"Attack `{name}` failed, and the fit goes on without it: {type(error).__name__}: {error}")
        return looks

    def _look(
        self,
        name: str,
        attack: Attack | None,
        point: int,
        probes: Mapping[str, Probe],
        network: torch.nn.Module,
        readout: Readout,
        engine: GradientEngine,
    ) -> list[Observation]:
        step, epoch = self._when(engine.trainer)
        looks = []
        for split, probe in probes.items():
            for metric, scores in measure(engine, network, readout, probe, self.metrics).items():
                kind = self.metrics[metric]
                looks.append(
                    Observation(
                        metric=metric,
                        split=split,
                        value=float(scores.mean()),
                        step=step,
                        epoch=epoch,
                        attack=name,
                        attack_config={} if attack is None else _settings(attack),
                        family="" if attack is None else attack.family,
                        point=point,
                        unit="" if attack is None else attack.unit,
                        scores=scores.tolist(),
                        entities=probe.entities if len(probe.entities) == len(scores) else [],
                        higher_means_known=kind.higher_means_known,
                        bounds=kind.bounds if max(kind.bounds) < float("inf") else None,
                    )
                )
        return looks

    def _load_probes(self, engine: GradientEngine, readout: Readout) -> dict[str, Probe]:
        if self._probes is None:
            assert engine.trainer is not None
            loaders = find_probes(engine.trainer, readout, {"forget": self.probe, "retain": self.retain_probe})
            self._probes = {
                split: load_probe(loader, readout, engine.rank, engine.world_size) for split, loader in loaders.items()
            }
        return self._probes

    def _attack_batches(self, engine: GradientEngine) -> list[Any]:
        assert engine.trainer is not None
        return [engine.to_device(batch) for batch in in_order(find_attack_data(engine.trainer, self.attack_data))]

    def _drop_scores(self) -> None:
        """Per-example scores are kept of the original and of the last check only."""
        first = min((observation.step for observation in self.observations), default=0)
        self.observations = [
            observation
            if observation.step == first
            else Observation(**{**vars(observation), "scores": [], "entities": []})
            for observation in self.observations
        ]

    def _log(self, pl_module: pl.LightningModule, values: Mapping[str, Tensor]) -> None:
        pl_module.log_dict(dict(values), batch_size=1, rank_zero_only=False)

    def _send(self, trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
        # Before the first step and after the last there is nothing to monitor; and what is logged through the module at
        # the start of training would come back, stale, at the end of the first epoch.
        for logger in trainer.loggers:
            logger.log_metrics({key: float(value) for key, value in values.items()}, step=trainer.global_step)


def _worst(name: str, looks: list[Observation]) -> dict[str, Tensor]:
    """The values at the attack's point of most knowledge, metric by metric."""
    values: dict[str, Tensor] = {}
    for metric in dict.fromkeys(observation.metric for observation in looks):
        forget = [
            observation for observation in looks if observation.metric == metric and observation.split == "forget"
        ]
        sign = 1 if forget[0].higher_means_known else -1
        worst = max(forget, key=lambda observation: sign * observation.value)
        values[f"recovery/{name}/{metric}"] = torch.tensor(worst.value)
        for observation in looks:
            if observation.metric == metric and observation.split == "retain" and observation.point == worst.point:
                values[f"recovery/{name}/retain_{metric}"] = torch.tensor(observation.value)
    return values


def _settings(attack: Attack) -> dict[str, Any]:
    plain = (bool, int, float, str, type(None))
    return {"attack": type(attack).__name__, **{k: v for k, v in vars(attack).items() if isinstance(v, plain)}}
