from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._adapter import attached_adapter, unpacked
from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._changes import Change, realised_share, warn_of_unused
from lightning_unlearn.attacks._masters import Masters
from lightning_unlearn.attacks._perturbed import restored, trainable
from lightning_unlearn.attacks._places import adapted_share, full_share
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.runtime import eval_mode


class Relearn(Attack):
    """Fine-tune for a few steps, as somebody with the weights and a little data would, and stop at several of them.

    Yields the step counts of :meth:`grid`: 0, 1, 2, 5, 10, 20, ... and ``steps``. Recovery may rise and fall again, so
    the whole curve is measured, not only its end.

    Args:
        steps: Optimizer steps (AdamW without decay, constant rate).
        lr: Learning rate.
        batches: Use only this many of the attacker's batches, the first ones, in turn; ``None`` for all.
        mode: ``"adapter"`` trains low-rank factors on every weight matrix but embeddings, whatever holds it; they are held
            outside the module tree, so nothing needs restoring. ``"full"`` trains the network's own weights in place, and
            puts them back; linear layers in few bits as a float32 change of their dequantised weights, 12 bytes for each
            with the optimizer's. What is frozen otherwise stays frozen. Both train in float32, also where the network is in
            half precision, whose rounding would swallow small steps and so shield the model.
        rank: Of the adapter.
        seed: Of the adapter's initialisation.
        store: Where ``"full"`` keeps the original weights meanwhile: ``"cpu"`` saves memory of the device, but takes time.
        knows: What it trains on in the loop of a fit, ``Unlearn(under=...)``: ``"judged"``, the forget examples that are
            judged in that step and those that follow; ``"others"``, only examples that are not judged. A network that was
            trained against ``"others"`` alone gives back the very facts that an attacker has. In checks it trains on what
            it is given.

    Raises:
        ValueError: If there is no data to relearn from.

    References:
        Hu et al., `Jogging the Memory of Unlearned LLMs <https://arxiv.org/abs/2406.13356>`_, 2024.
    """

    family: ClassVar[str] = "relearn"
    unit: ClassVar[str] = "step"

    def __init__(
        self,
        steps: int = 20,
        lr: float = 1e-3,
        batches: int | None = None,
        mode: Literal["adapter", "full"] = "adapter",
        rank: int = 8,
        seed: int = 0,
        store: Literal["device", "cpu"] = "device",
        knows: Literal["judged", "others"] = "judged",
    ) -> None:
        check_whole("steps", steps, least=0)
        check_positive("lr", lr)
        check_whole("rank", rank)
        if batches is not None:
            check_whole("batches", batches, why=", or `None` for all")
        if mode not in ("adapter", "full"):
            raise ValueError(f'`mode` should be "adapter" or "full". Found `mode = {mode!r}`.')
        if store not in ("device", "cpu"):
            raise ValueError(f"`store` should be 'device' or 'cpu'. Found `store = {store!r}`.")
        if knows not in ("judged", "others"):
            raise ValueError(f'`knows` should be "judged" or "others". Found `knows = {knows!r}`.')
        self.steps, self.lr, self.batches, self.mode, self.rank, self.seed = steps, lr, batches, mode, rank, seed
        self.store: Literal["device", "cpu"] = store
        self.knows: Literal["judged", "others"] = knows
        self.needs_data = "forget" if knows == "judged" else "attack"
        self._realised = 1.0

    def grid(self) -> list[int]:
        """Steps at which to measure, spaced evenly on a log scale.

        Example:
            >>> Relearn(steps=30).grid()
            [0, 1, 2, 5, 10, 20, 30]
        """
        spaced = [m * 10**e for e in range(len(str(self.steps))) for m in (1, 2, 5)]
        return [0, *(s for s in spaced if s < self.steps), *([self.steps] if self.steps else [])]

    @override
    def planned(self) -> tuple[int, int]:
        return len(self.grid()), self.steps

    @property
    def realised_share(self) -> float:
        """How much of the way that the last attack went in float32 arrived in the weights, from 0 to 1.

        Less than 1 where weights have half precision, in which the network still runs. 1 before an attack, and where all
        that an adapter adds goes to the outputs of linear layers.
        """
        return self._realised

    @override
    def drawn(self, generator: torch.Generator) -> Relearn:
        """From 1 to ``steps`` steps, each number as likely, with another start of the adapter."""
        number, seed = torch.randint(2**31, (2,), generator=generator).tolist()
        steps = 1 + number % self.steps if self.steps else 0
        return Relearn(steps, self.lr, self.batches, self.mode, self.rank, seed, self.store, self.knows)

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the weights of matrices, embeddings aside, that the attack changes.

        With ``"full"`` those that train, themselves or through an adapter, and those of linear layers in few bits.
        """
        return adapted_share(network) if self.mode == "adapter" else full_share(network)

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[int]]:
        batches = list(islice(batches, self.batches))
        if not batches or loss is None:
            raise ValueError(
                f"`Relearn` should get batches and a loss to relearn from. Found {len(batches)} batches and "
                f"`loss = {loss}`. Give `ForgetRetainData` forget or attack data."
            )
        engine = GradientEngine(network) if engine is None else engine
        # A check may run in validation, where Lightning is in inference mode: parameters made there get no gradients.
        with ExitStack() as stack, torch.inference_mode(False), torch.enable_grad():
            own: list[Tensor] = []
            if self.mode == "adapter":
                changes = stack.enter_context(attached_adapter(network, rank=self.rank, seed=self.seed))
            else:
                changes = stack.enter_context(unpacked(network))
                if not changes or any(p.requires_grad for p in network.parameters()):
                    own = trainable(network, '`Relearn(mode="full")`', 'Use `mode="adapter"`, or unfreeze')
            starts = stack.enter_context(restored(network, own, store=self.store)).pairs() if own else []
            yield self._train(network, own, changes, starts, batches, loss, engine)

    def _train(
        self,
        network: nn.Module,
        own: list[Tensor],
        changes: list[Change],
        starts: list[tuple[Tensor, Tensor]],
        batches: Sequence[Any],
        loss: BatchLoss,
        engine: GradientEngine,
    ) -> Iterator[int]:
        params = [*own, *(p for change in changes for p in change.params)]
        masters = Masters(params, lr=self.lr)
        data = cycle(batches)
        done = 0
        for stop in self.grid():
            for batch in islice(data, stop - done):
                # In evaluation mode: dropout does not help an attacker, and training mode would change BatchNorm's
                # statistics. Set anew for each step, since the caller measures between two points.
                with eval_mode(network), torch.enable_grad():
                    row, _ = engine.row(loss, [batch], params)
                masters.step(row)
                del row
            done = stop
            if stop == self.steps:
                if self.mode == "adapter" and stop:
                    warn_of_unused(network, changes, "`Relearn`")
                self._realised = masters.realised_share(starts) if own else realised_share(changes, "`Relearn`")
                # Its last pass is over: the caller's should have the memory of the optimizer.
                masters.release()
            yield stop
