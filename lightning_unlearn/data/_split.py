from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler
from typing_extensions import override

from lightning_unlearn.data._loaders import batch_size_of, in_order, reordered, rows_of
from lightning_unlearn.data._pairing import Pairing, forget_order, retain_order
from lightning_unlearn.data._source import DataSource, OpenedSource
from lightning_unlearn.data._stream import Order, empty_set, share
from lightning_unlearn.runtime import data_share

_OWN = (  # of the retain datamodule, if it has them
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "state_dict",
    "load_state_dict",
)


class ForgetRetainData(pl.LightningDataModule):
    """What must stay and what must go, behind one datamodule.

    The trainer sees the retain data, with the validation, test and prediction loaders, the transfer hooks and the state
    of its datamodule, if it is one; ``Unlearn`` fetches the forget data, ``RecoveryCheck`` the probe and attack data.
    Each is a ``LightningDataModule`` (its training loader is used), a ``DataLoader``, a data set, or, from YAML, a mapping
    with ``class_path`` and ``init_args``.

    Args:
        retain: What must stay.
        forget: What must go.
        probe: How forgetting is measured. Defaults to the forget data.
        attack: What an attacker has to relearn from. Defaults to the forget data, which is the strongest attack, and
            measures memorising rather than remembering; say so, or give other data about the same things.
        pairing: Which retain rows go with which forget rows, and how long an epoch is. ``"random"``: every forget row once,
            with as many batches of retain rows drawn anew each epoch. ``"cyclic"``: every row of the longer set once, the
            shorter one in turn. ``"sequential"``: every forget row once, with the first retain rows, in order. ``None``
            leaves the retain loader and its epoch alone, and shuffles the forget data.
        seed: Of every order.

    Raises:
        ValueError: With a pairing, if it cannot be known which rows a loader visits, or if one visits none.

    Example:
        >>> retain, forget = DataLoader(list(range(10, 14)), 2), DataLoader([0, 1], 2)
        >>> data = ForgetRetainData(retain=retain, forget=forget, pairing="cyclic")
        >>> data.setup("fit")
        >>> [batch.tolist() for batch in data.train_dataloader()]
        [[10, 11], [12, 13]]
    """

    def __init__(
        self,
        retain: DataSource,
        forget: DataSource,
        probe: DataSource | None = None,
        attack: DataSource | None = None,
        pairing: Pairing | None = "random",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.retain, self.forget = OpenedSource(retain, "retain"), OpenedSource(forget, "forget")
        self.probe = self.forget if probe is None else OpenedSource(probe, "probe")
        self.attack = self.forget if attack is None else OpenedSource(attack, "attack")
        self.pairing = pairing
        self.seed = seed
        for name in _OWN:
            if isinstance(source := self.retain.source, pl.LightningDataModule) and is_overridden(name, source):
                setattr(self, name, getattr(source, name))

    @property
    def parts(self) -> list[OpenedSource]:
        """The distinct parts."""
        return list(dict.fromkeys([self.retain, self.forget, self.probe, self.attack]))

    @override
    def prepare_data(self) -> None:
        for part in self.parts:
            part.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        for part in self.parts:
            part.setup(self.trainer, stage)

    @override
    def teardown(self, stage: str) -> None:
        for part in self.parts:
            part.teardown(stage)

    @override
    def train_dataloader(self) -> Any:
        if self.pairing is None:
            return self.retain.as_given()
        loader, order = self.retain.loader(), self._order(retain_order, self.retain, self.forget)
        rank, world_size = data_share(self.trainer)
        sampler = _PairedSampler(order, world_size, rank)
        paired = reordered(loader, ResumableLoader, batch_size=batch_size_of(loader), sampler=sampler)
        paired.trainer = self.trainer
        return paired

    def forget_dataloader(self) -> Iterable[Any]:
        """What must go."""
        return self.forget.loader()

    def forget_order(self) -> Order | None:
        """Which forget rows an epoch visits; ``None`` if that is not for us to say."""
        return None if self.pairing is None else self._order(forget_order, self.forget, self.retain)

    def probe_dataloaders(self) -> dict[str, Iterable[Any]]:
        """How forgetting, and keeping, is measured."""
        return {"forget": in_order(self.probe.loader()), "retain": in_order(self.retain.loader())}

    def attack_dataloader(self) -> Iterable[Any]:
        """What an attacker has to relearn from."""
        return in_order(self.attack.loader())

    def _order(self, rule: Any, own: OpenedSource, other: OpenedSource) -> Order:
        """The order of one part's rows, the other having as many rows as makes its number of batches in own batches."""
        sizes = {part.name: self._rows(part) for part in (own, other)}
        own_batch, other_batch = batch_size_of(own.loader()), batch_size_of(other.loader())
        sizes[other.name] = -(-sizes[other.name] * own_batch // other_batch)

        def order(epoch: int) -> list[int]:
            return rule(self.pairing, **sizes, seed=self.seed, epoch=epoch)  # type: ignore[no-any-return]

        return order

    def _rows(self, part: OpenedSource) -> int:
        rows = rows_of(loader := part.loader())
        if rows is None:
            raise ValueError(
                f"`pairing={self.pairing!r}` should get loaders of which it is known which rows they visit: over a data set "
                f"with a length, with torch's own samplers. Found a `{type(loader).__name__}` of {part.name} data "
                f"{_what(loader)}. Use `pairing=None`."
            )
        if not rows:
            raise ValueError(empty_set(part.name))
        return len(rows)


def _what(loader: Any) -> str:
    if not isinstance(loader, DataLoader):
        return "that is no `DataLoader`"
    sampler = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
    return f"over a `{type(loader.dataset).__name__}` with a `{type(sampler).__name__}`"


class _PairedSampler(DistributedSampler[Any]):
    """Rows of one epoch, shared among ranks. Being a ``DistributedSampler``, Lightning leaves it as it is."""

    def __init__(self, order: Order, world_size: int, rank: int) -> None:
        super().__init__(order(0), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]  # for its length
        self._rows_of = order

    def __iter__(self) -> Iterator[int]:
        return iter(share(self._rows_of(self.epoch), self.rank, self.num_replicas))

    def __len__(self) -> int:
        return len(share(self._rows_of(self.epoch), self.rank, self.num_replicas))


class ResumableLoader(DataLoader[Any]):
    """A ``DataLoader`` whose position inside an epoch is in the checkpoint: Lightning does not fast-forward a plain one."""

    trainer: pl.Trainer | None = None
    _served = 0
    _skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all the trainer needs
        skip, self._skip = self._skip, 0
        self._served = skip
        batches = super().__iter__()
        for _ in range(skip):
            next(batches)
        for batch in batches:
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches served in this epoch; 0 at its end."""
        limit = len(self) if self.trainer is None else min(len(self), self.trainer.num_training_batches)
        return {"served": self._served % max(int(limit), 1)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip what was served."""
        self._skip = state["served"]
