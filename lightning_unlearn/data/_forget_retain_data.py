from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core.overrides import is_overridden
from torch.utils.data import BatchSampler, DataLoader
from typing_extensions import override

from lightning_unlearn.data._linted import questions_of
from lightning_unlearn.data._loaders import (
    batch_size_of,
    drops_last,
    in_order,
    makes_its_own_batches,
    reordered,
    rows_of,
    visited,
)
from lightning_unlearn.data._ordered_sampler import OrderedSampler
from lightning_unlearn.data._resumable_loader import ResumableLoader
from lightning_unlearn.data._source import DataSource, OpenedSource, sources_by_name
from lightning_unlearn.data._stream import RowsByEpoch, empty_set
from lightning_unlearn.data.linting import Linter
from lightning_unlearn.data.orders import EpochRows, Order, RowSet
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.runtime import EitherPackage, data_share, lightning_class

_FROM_RETAIN = (  # hooks taken over from the retain datamodule, if it overrides them
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "state_dict",
    "load_state_dict",
)


class ForgetRetainData(EitherPackage, pl.LightningDataModule):
    """What must stay and what must go, behind one datamodule.

    The trainer trains on the retain data. If they are a datamodule, its validation, test and prediction loaders, its
    transfer hooks and its state are used as well. ``Unlearn`` fetches the forget data, ``RecoveryCheck`` the probe and
    attack data. Each is a ``LightningDataModule`` (its training loader is used), a ``DataLoader``, a data set, or, from
    YAML, a mapping with ``class_path`` and ``init_args``.

    The retain loader, its sampler and the length of an epoch stay the user's, and the forget data are shuffled. An
    ``order`` is another choice: it says which retain rows go with which forget rows, and so how long an epoch is; the two
    lengths are announced.

    Args:
        retain: What must stay.
        forget: What must go.
        probe: How forgetting is measured. Defaults to the forget data.
        attack: What an attacker has to relearn from. Defaults to the forget data: the strongest attack, but the network
            may learn them afresh instead of remembering them. Say so in a report, or give other data about the same things.
            Several by name, ``{"paraphrase": data, ...}``, are for attacks that say which: ``Relearn(data="paraphrase")``.
        probes: Further data on which knowledge is measured, by the name of their split: ``{"holdout": ...}`` are examples of
            the same kind that nobody was trained on, for :class:`Membership`.
        order: Which retain rows go with which forget rows, and how long an epoch is: see :class:`RandomOrder`,
            :class:`CyclicOrder`, :class:`SequentialOrder`. Where a loader has ``drop_last=True``, whole batches of both are
            visited; where ``limit_train_batches`` cuts an epoch, so many of both. With an order, a fit that is resumed
            inside an epoch goes on where it was; a plain ``DataLoader`` starts its epoch anew, as in any fit. Defaults to
            none.
        seed: Of every order.
        lint: Looks over forget and retain rows in ``setup`` of a fit, where these are questions and answers.

    Raises:
        ValueError: With an order, if the rows a loader visits are not known beforehand, or if it visits none.

    Example:
        >>> from lightning_unlearn.data import CyclicOrder
        >>> retain, forget = DataLoader(list(range(10, 14)), 2), DataLoader([0, 1], 2)
        >>> data = ForgetRetainData(retain=retain, forget=forget, order=CyclicOrder())
        >>> data.setup("fit")
        >>> [batch.tolist() for batch in data.train_dataloader()]
        [[10, 11], [12, 13]]
    """

    def __init__(
        self,
        retain: DataSource,
        forget: DataSource,
        probe: DataSource | None = None,
        attack: DataSource | dict[str, DataSource] | None = None,
        order: Order | None = None,
        seed: int = 0,
        probes: dict[str, DataSource] | None = None,
        lint: Linter | None = None,
    ) -> None:
        super().__init__()
        if taken := {"forget", "retain"} & set(probes or {}):
            raise ValueError(
                f"`probes` should name further splits, such as `holdout`. Found `{'`, `'.join(sorted(taken))}`: give what "
                "is asked of the forget data as `probe`."
            )
        if order is not None:
            check_kind("order", order, Order, example="RandomOrder()")
        if lint is not None:
            check_kind("lint", lint, Linter, example="Linter()")
        self.retain, self.forget = OpenedSource(retain, "retain"), OpenedSource(forget, "forget")
        self.probe = self.forget if probe is None else OpenedSource(probe, "probe")
        named = sources_by_name(attack)
        self.attack = self.forget if attack is None or named else OpenedSource(attack, "attack")
        self.named_attacks = {name: OpenedSource(source, f"`{name}` attack") for name, source in named.items()}
        self.probes = {name: OpenedSource(source, name) for name, source in (probes or {}).items()}
        self.order = order
        self._prepared = False  # whether `order.prepare` was called since the last `setup`
        self.seed = seed
        self.lint = lint
        # Set on the instance, not defined on the class: Lightning calls a hook only if it is overridden, and this class
        # should seem to override those alone that the retain datamodule does.
        base = lightning_class(source := self.retain.source, "LightningDataModule")
        for name in _FROM_RETAIN:
            if base is not None and is_overridden(name, source, base):
                setattr(self, name, getattr(source, name))

    @property
    def parts(self) -> list[OpenedSource]:
        """The distinct parts."""
        further = [*self.named_attacks.values(), *self.probes.values()]
        return list(dict.fromkeys([self.retain, self.forget, self.probe, self.attack, *further]))

    @property
    def batch_size(self) -> Any:
        """That of the retain datamodule: here ``Tuner.scale_batch_size`` finds it, and sets it."""
        holders = _holders(self.retain.source, "batch_size")
        if not holders:
            raise AttributeError("The retain data should be a datamodule with a `batch_size`. Found none.")
        return getattr(holders[0], "batch_size")  # noqa: B009  # hyper-parameters have attributes by `__getattr__`

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        for holder in _holders(self.retain.source, "batch_size"):
            setattr(holder, "batch_size", value)  # noqa: B010

    @override
    def prepare_data(self) -> None:
        for part in self.parts:
            part.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        for part in self.parts:
            part.setup(self.trainer, stage)
        self._prepared = False
        if self.lint is not None and stage == "fit":
            self.lint.warn(questions_of(self.forget), questions_of(self.retain))

    @override
    def teardown(self, stage: str) -> None:
        for part in self.parts:
            part.teardown(stage)

    @override
    def train_dataloader(self) -> Any:
        if self.order is None:
            return self.retain.as_given()
        loader, (rank, world_size) = self.retain.loader(), data_share(self.trainer)
        sampler = OrderedSampler(self._rows_by_epoch(self.order, "retain"), world_size, rank)
        ordered = reordered(
            loader, ResumableLoader, batch_size=batch_size_of(loader), sampler=sampler, drop_last=drops_last(loader)
        )
        ordered.trainer = self.trainer  # knows where `limit_train_batches` ends an epoch
        rank_zero_info(
            f"An epoch has {len(ordered)} batches, as `{type(self.order).__name__}()` orders forget and retain rows; "
            f"the retain data alone have {-(-len(loader) // world_size)}, as an epoch has with `order=None`."  # type: ignore[arg-type]
        )
        return ordered

    def forget_dataloader(self) -> Iterable[Any]:
        """The forget data, as the user gave them: the order is that of :meth:`forget_order`."""
        return self.forget.loader()

    def forget_order(self) -> RowsByEpoch | None:
        """Which forget rows an epoch visits; ``None`` without an order."""
        return None if self.order is None else self._rows_by_epoch(self.order, "forget")

    def probe_dataloaders(self) -> dict[str, Iterable[Any]]:
        """The data on which knowledge is measured, by split: probe data, as ``forget``, retain data, and ``probes``."""
        # In order and with nothing dropped (where the rows are known), whatever the loaders do in training: each example
        # is measured once.
        parts = {"forget": self.probe, "retain": self.retain, **self.probes}
        return {split: in_order(part.loader()) for split, part in parts.items()}

    def attack_dataloader(self) -> Iterable[Any]:
        """The data that an attacker relearns from."""
        return in_order(self.attack.loader())

    def attack_dataloaders(self) -> dict[str, Iterable[Any]]:
        """Further data of attackers, by name."""
        return {name: in_order(part.loader()) for name, part in self.named_attacks.items()}

    def _rows_by_epoch(self, order: Order, part: Literal["forget", "retain"]) -> RowsByEpoch:
        forget, retain = self._row_set(self.forget), self._row_set(self.retain)
        # Asked for twice per fit, for retain and for forget rows; an order may run the model to prepare.
        if not self._prepared:
            order.prepare(forget, retain, self.trainer)
            self._prepared = True

        def rows(epoch: int) -> list[int]:
            of_epoch: EpochRows = order.rows(forget, retain, seed=self.seed, epoch=epoch)
            if forget.drop_last or retain.drop_last:
                world_size = data_share(self.trainer)[1]
                of_epoch = of_epoch.whole_batches(forget.batch_size * world_size, retain.batch_size * world_size)
            return of_epoch.retain if part == "retain" else of_epoch.forget[: self._cut(forget.batch_size)]

        return rows

    def _cut(self, batch_size: int) -> int | None:
        """Forget rows after which the trainer ends an epoch. It cuts the retain rows itself."""
        batches = getattr(self.trainer, "num_training_batches", None)
        if not isinstance(batches, int) or not batches:
            return None
        return batches * batch_size * data_share(self.trainer)[1]

    def _row_set(self, part: OpenedSource) -> RowSet:
        rows = rows_of(loader := part.loader())
        if rows is None:
            raise ValueError(
                f"`order={type(self.order).__name__}()` should get loaders whose rows are known beforehand: a data set with "
                f"a length, and torch's own samplers. Found a `{type(loader).__name__}` of {part.name} data "
                f"{_describe(loader)}. Use `order=None`."
            )
        if not rows:
            raise ValueError(empty_set(part.name))
        # Rows are numbered within what the loader visits: with a `SubsetRandomSampler`, row 0 is its lowest index.
        return RowSet(visited(loader), batch_size_of(loader), drops_last(loader))


def _describe(loader: Any) -> str:
    if not isinstance(loader, DataLoader):
        return "that is no `DataLoader`"
    if makes_its_own_batches(loader):
        return "with an `__iter__` of its own"
    sampler = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
    return f"over a `{type(loader.dataset).__name__}` with a `{type(sampler).__name__}`"


def _holders(source: Any, name: str) -> list[Any]:
    """What of a datamodule has an attribute: itself, or its hyper-parameters."""
    if lightning_class(source, "LightningDataModule") is None:
        return []
    return [holder for holder in (source, source.hparams) if hasattr(holder, name)]
