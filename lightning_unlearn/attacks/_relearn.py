from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._adapter import attached_adapter, unpacked
from lightning_unlearn.attacks._base import Attack, BatchLoss, Need
from lightning_unlearn.attacks._changes import Change, realised_share, warn_of_unused
from lightning_unlearn.attacks._masters import Masters
from lightning_unlearn.attacks._perturbed import restored, trainable
from lightning_unlearn.attacks._places import adapted_share, full_share
from lightning_unlearn.attacks._replaced import replaced
from lightning_unlearn.data import FactSplit
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind, check_positive, check_whole
from lightning_unlearn.models.layers import name_fits, plain_name
from lightning_unlearn.runtime import eval_mode, hash_of


class Relearn(Attack):
    """Fine-tune for a few steps, as somebody with the weights and a little data would, and stop at several of them.

    Yields the step counts of :meth:`grid`: 0, 1, 2, 5, 10, 20, ... and ``steps``. Recovery may rise and fall again, so
    the whole curve is measured, not only its end.

    Args:
        steps: Optimizer steps (AdamW without decay, constant rate), each on one batch, whose size is that of the data.
        lr: Learning rate.
        batches: Use only this many of the attacker's batches, the first ones, in turn; ``None`` for all.
        mode: ``"adapter"`` trains low-rank factors on every weight matrix but embeddings, whatever holds it; they are held
            outside the module tree, so nothing needs restoring. ``"full"`` trains the network's own weights in place, and
            puts them back; linear layers in few bits as a float32 change of their dequantised weights, 12 bytes for each
            with the optimizer's. What is frozen otherwise stays frozen. Both train in float32, also where the network is in
            half precision, whose rounding would swallow small steps and so shield the model.
        rank: Of the adapter.
        seed: Of the adapter's initialisation.
        store: Where ``"full"`` keeps the original weights meanwhile: ``"cpu"`` takes no memory of the device, ``"device"``
            is faster there.
        knows: What it trains on in the loop of a fit, ``Unlearn(under=...)``: ``"judged"``, the forget examples that are
            judged in that step and those that follow; ``"others"``, only examples that are not judged. A network that was
            trained against ``"others"`` alone gives back the very facts that an attacker has. In checks it trains on what
            it is given.
        data: In checks, the name of its data in ``RecoveryCheck(attack_data={name: data})``, or in a datamodule; ``None``
            for those that attacks take otherwise.
        facts: In checks, train on some of the facts only, and be judged by the others.
        layers: Train only layers whose full names, or parts of them between dots, one of these ``fnmatch`` patterns fits:
            ``["mlp"]``, ``["*layers.3.*"]``. ``None`` for all.
        repeats: How often each batch is shown in a row before the next one is: 1 is spaced presentation; ``steps`` over the
            number of batches is massed, as many steps on the same data.
        order_seed: Of the order of batches, another in each pass; ``None`` for that of the data.

    Raises:
        ValueError: If there is no data to relearn from, or no layer fits.

    Example:
        >>> network, batch = nn.Linear(2, 2), (torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
        >>> def loss(batch):
        ...     return nn.functional.cross_entropy(network(batch[0]), batch[1])
        >>> with Relearn(steps=2, lr=0.1)(network, batches=[batch], loss=loss) as points:
        ...     losses = [loss(batch).item() for _ in points]
        >>> losses[0] > losses[1] > losses[2]
        True

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
        store: Literal["device", "cpu"] = "cpu",
        knows: Literal["judged", "others"] = "judged",
        data: str | None = None,
        facts: FactSplit | None = None,
        layers: list[str] | None = None,
        repeats: int = 1,
        order_seed: int | None = None,
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
        check_whole("repeats", repeats)
        if order_seed is not None:
            check_whole("order_seed", order_seed, least=0, why=", or `None` for the order of the data")
        if facts is not None:
            check_kind("facts", facts, FactSplit, example="FactSplit(share=0.5)")
        if isinstance(layers, str) or layers == []:
            raise ValueError(f'`layers` should be a list of patterns, such as ["mlp"]. Found `layers = {layers!r}`.')
        self.steps, self.lr, self.batches, self.mode, self.rank, self.seed = steps, lr, batches, mode, rank, seed
        self.store: Literal["device", "cpu"] = store
        self.knows: Literal["judged", "others"] = knows
        self.data, self.facts, self.layers, self.repeats, self.order_seed = data, facts, layers, repeats, order_seed
        self.needs_data: Need | None = "forget" if knows == "judged" else "attack"
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
        return replaced(self, steps=1 + number % self.steps if self.steps else 0, seed=seed)

    @override
    def batches_read(self) -> int | None:
        """One for each step, if each is shown once."""
        most = max(1, -(-self.steps // self.repeats))
        return self.batches if self.order_seed is not None else min(self.batches or most, most)

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the weights of matrices, embeddings aside, that the attack changes; of ``layers``, if it has these.

        With ``"full"`` those that train, themselves or through an adapter, and those of linear layers in few bits.
        """
        return (adapted_share if self.mode == "adapter" else full_share)(network, self.layers)

    def stream(self, batches: Iterable[Any], loss: BatchLoss | None) -> Iterator[Any]:
        """What is trained on, step after step, without end.

        Args:
            batches: What the attack was given.
            loss: What it minimises.

        Raises:
            ValueError: If there are no batches, or there is no loss.
        """
        own = list(islice(batches, self.batches))
        if not own or loss is None:
            raise ValueError(
                f"`{type(self).__name__}` should get batches and a loss to relearn from. Found {len(own)} batches and "
                f"`loss = {loss}`. Give `ForgetRetainData` forget or attack data."
            )
        return (batch for number in count() for batch in self._pass(own, number) for _ in range(self.repeats))

    def _pass(self, batches: Sequence[Any], number: int) -> Sequence[Any]:
        if self.order_seed is None:
            return batches
        generator = torch.Generator().manual_seed(hash_of(self.order_seed, number))
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

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
        data, chosen = self.stream(batches, loss), self._chosen(network)
        assert loss is not None  # else there is no stream
        engine = GradientEngine(network) if engine is None else engine
        # A check may run in validation, where Lightning is in inference mode: parameters made there get no gradients.
        with ExitStack() as stack, torch.inference_mode(False), torch.enable_grad():
            own: list[Tensor] = []
            if self.mode == "adapter":
                changes = stack.enter_context(attached_adapter(network, rank=self.rank, seed=self.seed, weights=chosen))
            else:
                changes = stack.enter_context(unpacked(network, chosen))
                if not changes or any(p.requires_grad for p in network.parameters()):
                    own = trainable(
                        network, '`Relearn(mode="full")`', 'Use `mode="adapter"`, or unfreeze', among=chosen
                    )
            starts = stack.enter_context(restored(network, own, store=self.store)).pairs() if own else []
            yield self._train(network, own, changes, starts, data, loss, engine)

    def _chosen(self, network: nn.Module) -> list[Tensor] | None:
        """The parameters of ``layers``; ``None`` for all."""
        if self.layers is None:
            return None
        named: list[tuple[str, Tensor]] = list(network.named_parameters())
        chosen = [p for name, p in named if name_fits(plain_name(name), self.layers)]
        if not chosen:
            there = ", ".join(f"`{plain_name(name)}`" for name, _ in named[:8])
            raise ValueError(
                f"`layers` should fit names of the network. Found none with `layers = {self.layers}`. There are {there} and "
                "so on."
            )
        return chosen

    def _train(
        self,
        network: nn.Module,
        own: list[Tensor],
        changes: list[Change],
        starts: list[tuple[Tensor, Tensor]],
        data: Iterator[Any],
        loss: BatchLoss,
        engine: GradientEngine,
    ) -> Iterator[int]:
        params = [*own, *(p for change in changes for p in change.params)]
        masters = Masters(params, lr=self.lr)
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
