from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_unlearn.attacks import Attack
from lightning_unlearn.engine import GradientEngine, Row, each_pass_kept, isolated
from lightning_unlearn.forgetting._forget_batches import ForgetBatches, NumberedBatch
from lightning_unlearn.forgetting._under import Under
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.readouts import Readout, read_for_a_loss
from lightning_unlearn.runtime import (
    Agreement,
    Ended,
    Misfit,
    hash_of,
    in_own_containers,
    interruptible,
    seed_random_states,
    uninterrupted,
)

BatchLoss = Callable[[Any], Tensor]


class VantagePoints:
    r"""Takes the forget gradient at the weights as they are, and also inside of attacks.

    .. math:: \frac{1}{1 + |A|} \Bigl( \nabla L_f(\theta) + \sum_{a \in A} \nabla L_f(a(\theta)) \Bigr)

    The attack is held constant: the gradient at the attacked weights is applied to the real ones.

    Args:
        under: The attacks.
        seed: From which, with the number of the step, each attack draws its strength.
        engine: Runs the passes.
        batches: The forget data, also those that an attacker trains on.
        readout: How the network is run by an attacker, and on retain data.
    """

    def __init__(
        self,
        under: Under,
        *,
        seed: int,
        engine: GradientEngine,
        batches: ForgetBatches,
        readout: Readout,
    ) -> None:
        self._settings, self._seed = under, seed
        self._engine, self._batches = engine, batches
        self._readout = readout.for_measuring()
        self._network = self._readout.find_network(engine.module)
        self._retain: list[Any] = []
        self._step = 0
        self.counts = {name: {"met": 0, "failed": 0} for name, _ in under}
        self._step_log: dict[str, Tensor] = {}

    @property
    def is_due(self) -> bool:
        """Whether the attacks are met in this step."""
        return bool(self._settings.attacks) and self._step % self._settings.every == 0

    def begin(self, step: int) -> None:
        """Say which optimizer step comes, counted from the start of training."""
        self._step = step

    def saw_retain(self, batch: Any) -> None:
        """Keep a retain micro-batch of this step, if it is needed."""
        if self._settings.needs_retain:
            self._retain.append(in_own_containers(batch))

    def pass_over(self) -> None:
        """Nothing is taken in this step."""
        self._retain.clear()

    def row(
        self, loss: BatchLoss, batches: Sequence[NumberedBatch], params: Sequence[Tensor], *, divisor: float
    ) -> tuple[Row, Tensor]:
        """As :meth:`GradientEngine.row`: the mean over vantage points, and the losses without an attack.

        With ``retain``, ``p.grad`` becomes the mean of the retain gradients, in place.
        """
        forget, losses = self._engine.row(loss, batches, params, divisor=divisor)
        retain: Row = [p.grad for p in params]
        taken = 1
        for name, attack in self._settings if self.is_due else ():
            rows = self._under(name, attack, loss, batches, params, divisor)
            if rows is not None:
                taken += 1
                _add_(forget, rows[0])
                _add_(retain, rows[1])
        self._retain.clear()
        _divide_(forget, taken)
        if self._settings.retain:
            _divide_(retain, taken)
            for p, grad in zip(params, retain, strict=True):
                p.grad = grad
        return forget, losses

    def take_log(self) -> dict[str, Tensor]:
        """What was measured since the last call: the forget loss under each attack, and how often it has failed."""
        log, self._step_log = self._step_log, {}
        return log

    def refuse_never_met(self) -> None:
        """Refuse a fit in which some attack never worked."""
        for name, counts in self.counts.items():
            if counts["failed"] and not counts["met"]:
                raise RuntimeError(
                    f"Forgetting should have been under the attack `{name}`. Found that it failed in each of the "
                    f"{counts['failed']} steps in which it was due: the fit was one without it. See the warning at the "
                    "first; mend the attack, or leave it out of `Unlearn(under=...)`."
                )

    def state_dict(self) -> dict[str, Any]:
        """How often each attack was met, and failed."""
        return {name: dict(counts) for name, counts in self.counts.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Go on counting. Attacks that the checkpoint does not know start at zero."""
        self.counts.update({name: dict(counts) for name, counts in state.items() if name in self.counts})

    def _under(
        self,
        name: str,
        attack: Attack,
        loss: BatchLoss,
        judged: Sequence[NumberedBatch],
        params: Sequence[Tensor],
        divisor: float,
    ) -> tuple[Row, Row] | None:
        """Forget and retain gradient under one attack; ``None`` if it fails."""
        engine = self._engine
        with Agreement(f"Attack `{name}` of `Unlearn(under=...)`") as agreement:
            found, error = None, None
            # Ctrl-C comes through where nothing has to be put back, which attacks and `isolated` see to.
            with uninterrupted(), isolated(engine.trainer, engine.module):  # type: ignore[arg-type]  # of a fit
                try:
                    found = self._met(name, attack, loss, judged, params, divisor)
                except Misfit:
                    raise
                except Exception as failure:  # any: the fit is worth more than one vantage point of one step
                    error = failure
            ended = agreement.settle(error, "")
        if ended is not None:
            self._failed(name, ended)
            return None
        assert found is not None
        self.counts[name]["met"] += 1
        self._step_log[f"under/{name}"] = found[2]
        return found[0], found[1]

    def _met(
        self,
        name: str,
        attack: Attack,
        loss: BatchLoss,
        judged: Sequence[NumberedBatch],
        params: Sequence[Tensor],
        divisor: float,
    ) -> tuple[Row, Row, Tensor]:
        seed = hash_of(self._seed, self._step, *name.encode())
        drawn = attack.drawn(torch.Generator().manual_seed(seed))
        seed_random_states(seed)
        forget: list[Row] = []
        retain: list[Row] = []
        losses: list[Tensor] = []
        # An attack on the very examples that are judged knows one micro-batch at a time.
        for part in [[one] for one in judged] if attack.needs_data == "judged" else [judged]:
            data = self._data(attack, part)
            with drawn(self._network, batches=data, loss=self._attackers_loss, engine=self._engine) as points:
                with interruptible():
                    for _ in points:  # to the end of it, where what the attack has needed meanwhile is freed
                        pass
                for p in params:  # an adapter attack has frozen them
                    p.requires_grad_(True)
                with interruptible(), each_pass_kept(self._engine.module):
                    row, loss_here = self._engine.row(loss, part, params, divisor=divisor)
                    self._refuse_not_finite(row, loss_here)
                    forget.append(row)
                    losses.append(loss_here)
                    if self._settings.retain and not retain:
                        retain.append(self._engine.row(self._attackers_loss, self._retain, params, divisor=divisor)[0])
        return _sum(forget), _sum(retain) if retain else [None] * len(params), torch.cat(losses).mean()

    def _data(self, attack: Attack, judged: Sequence[NumberedBatch]) -> Iterable[Any]:
        given: dict[Any, Callable[[], Iterable[Any]]] = {
            "attack": self._batches.others,
            "forget": lambda: [*(batch for _, batch in judged), *self._batches.following()],
            "judged": lambda: [batch for _, batch in judged],
            "retain": lambda: list(self._retain),
            "both": lambda: {"attack": given["forget"](), "beside": given["retain"]()},
        }
        return given[attack.needs_data]() if attack.needs_data else []

    def _attackers_loss(self, batch: Any) -> Tensor:
        with read_for_a_loss():
            loss: Tensor = CrossEntropy()(self._readout.for_mean()(self._network, batch))
        return loss

    def _refuse_not_finite(self, row: Row, losses: Tensor) -> None:
        if not self._engine.is_finite([*row, losses]):
            raise FloatingPointError("The forget gradient under the attack should be finite. Found NaN or infinity.")

    def _failed(self, name: str, ended: Ended) -> None:
        counts = self.counts[name]
        if not counts["failed"]:
            rank_zero_warn(
                f"Attack `{name}` of `Unlearn(under=...)` failed, and this step goes on without it: {ended}. Further "
                f"failures are counted in the log, as `unlearn/under/{name}/failed`."
            )
        counts["failed"] += 1
        self._step_log[f"under/{name}/failed"] = torch.tensor(float(counts["failed"]), dtype=torch.float32)


def _sum(rows: list[Row]) -> Row:
    first, *others = rows
    for row in others:
        _add_(first, row)
    return first


@torch.no_grad()
def _add_(total: Row, row: Row) -> None:
    for i, tensor in enumerate(row):
        if tensor is not None:
            before = total[i]
            total[i] = tensor if before is None else before.add_(tensor)


@torch.no_grad()
def _divide_(row: Row, number: int) -> None:
    for tensor in row if number > 1 else ():
        if tensor is not None:
            tensor.div_(number)
