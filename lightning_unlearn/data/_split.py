from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lightning_unlearn.data._pairing import Pairing, forget_order, retain_order
from lightning_unlearn.data._source import Part, Source
from lightning_unlearn.data._stream import EMPTY, Order, batch_size_of, in_order, is_indexable, reordered, share


class SplitData(pl.LightningDataModule):
    """What must stay and what must go, behind one datamodule.

    The trainer sees the retain data, and its validation and test loaders if it has any; ``Unlearn`` fetches the forget
    data, ``RecoveryCheck`` the probe and attack data. Each is a ``LightningDataModule`` (its training loader is used), a
    ``DataLoader``, a data set, or, from YAML, a mapping with ``class_path`` and ``init_args``.

    Args:
        retain: What must stay.
        forget: What must go.
        probe: How forgetting is measured. Defaults to the forget data.
        attack: What an attacker has to relearn from. Defaults to the forget data, which is the strongest attack, and
            measures memorising rather than remembering; say so, or give other data about the same things.
        pairing: Which retain rows go with which forget rows, and how long an epoch is. ``"random"``: every forget row once,
            with as many retain rows drawn anew each epoch. ``"cyclic"``: every row of the longer set once, the shorter
            one in turn. ``"sequential"``: every forget row once, with the first retain rows, in order. ``None`` leaves
            the retain loader and its epoch alone, and shuffles the forget data.
        seed: Of every order.

    Example:
        >>> data = SplitData(retain=DataLoader(list(range(10, 14)), 2), forget=DataLoader([0, 1], 2), pairing="cyclic")
        >>> data.setup("fit")
        >>> [batch.tolist() for batch in data.train_dataloader()]
        [[10, 11], [12, 13]]
    """

    def __init__(
        self,
        retain: Source,
        forget: Source,
        probe: Source | None = None,
        attack: Source | None = None,
        pairing: Pairing | None = "random",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.retain, self.forget = Part(retain, "retain"), Part(forget, "forget")
        self.probe = self.forget if probe is None else Part(probe, "probe")
        self.attack = self.forget if attack is None else Part(attack, "attack")
        self.pairing = pairing
        self.seed = seed
        for name in ("val_dataloader", "test_dataloader"):  # the user's own, if there are any
            if isinstance(source := self.retain.source, pl.LightningDataModule) and is_overridden(name, source):
                setattr(self, name, getattr(source, name))

    @property
    def parts(self) -> list[Part]:
        """The distinct parts."""
        return list(dict.fromkeys([self.retain, self.forget, self.probe, self.attack]))

    @override
    def prepare_data(self) -> None:
        for part in self.parts:
            part.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        for part in self.parts:
            part.setup(self.trainer)

    @override
    def train_dataloader(self) -> Iterable[Any]:
        loader = self.retain.loader()
        if self.pairing is None:
            return loader
        forget = self.forget.loader()
        if not (is_indexable(loader) and is_indexable(forget)):
            raise ValueError(
                f"`pairing={self.pairing!r}` should get retain and forget loaders over data sets with a length. Found "
                f"`{type(loader).__name__}` and `{type(forget).__name__}`. Use `pairing=None`."
            )
        if not _rows(loader):
            raise ValueError("The retain set should hold at least one example. Found none. Check its path and filter.")
        world_size, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        sampler = _PairedSampler(loader, self._order(retain_order), world_size, rank)
        return reordered(loader, ResumableLoader, batch_size=batch_size_of(loader), sampler=sampler)

    def forget_dataloader(self) -> Iterable[Any]:
        """What must go."""
        return self.forget.loader()

    def forget_order(self) -> Order | None:
        """Which forget rows an epoch visits; ``None`` if that is not for us to say."""
        return None if self.pairing is None else self._order(forget_order)

    def probe_dataloaders(self) -> dict[str, Iterable[Any]]:
        """How forgetting, and keeping, is measured."""
        return {"forget": in_order(self.probe.loader()), "retain": in_order(self.retain.loader())}

    def attack_dataloader(self) -> Iterable[Any]:
        """What an attacker has to relearn from."""
        return in_order(self.attack.loader())

    def _order(self, rule: Any) -> Order:
        forget, retain = _rows(self.forget.loader()), _rows(self.retain.loader())
        if forget == 0:
            raise ValueError(EMPTY)

        def order(epoch: int) -> list[int]:
            return rule(self.pairing, forget=forget, retain=retain, seed=self.seed, epoch=epoch)  # type: ignore[no-any-return]

        return order


def _rows(loader: Any) -> int:
    return len(loader.dataset)


class _PairedSampler(DistributedSampler[Any]):
    """Rows of one epoch, shared among ranks. Being a ``DistributedSampler``, Lightning leaves it as it is."""

    def __init__(self, loader: Any, order: Order, world_size: int, rank: int) -> None:
        super().__init__(loader.dataset, num_replicas=world_size, rank=rank, shuffle=False)
        self._rows_of = order

    def __iter__(self) -> Iterator[int]:
        return iter(share(self._rows_of(self.epoch), self.rank, self.num_replicas))

    def __len__(self) -> int:
        return len(share(self._rows_of(self.epoch), self.rank, self.num_replicas))


class ResumableLoader(DataLoader[Any]):
    """A ``DataLoader`` whose position inside an epoch is in the checkpoint: Lightning does not fast-forward a plain one."""

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
        return {"served": self._served % max(len(self), 1)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip what was served."""
        self._skip = state["served"]
