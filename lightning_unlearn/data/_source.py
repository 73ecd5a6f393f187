from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pydoc import locate
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

from lightning_unlearn.data._combined import one_loader
from lightning_unlearn.runtime import in_each_package, lightning_class

if TYPE_CHECKING:
    DataSource = pl.LightningDataModule | Iterable[Any] | Dataset[Any] | dict[str, Any]
else:
    # At run time the hint is a plain mapping, so that LightningCLI builds none of the nested datamodules: `build` does.
    # LightningCLI would hand the hyper-parameters of the top-level `data:` to nested ones too, and the forget set would
    # silently become the retain set.
    DataSource = dict[str, Any]
"""A datamodule, a loader, a data set, or, from YAML, a mapping with ``class_path`` and ``init_args``."""


_AROUND = (
    'Parser key "source"',
    "Problem with given class",
    "Does not validate against any",
    "Subtypes:",
    "Errors:",
    "Given value",
)
"""How lines of jsonargparse's errors start that say where something is wrong, not what."""


def build(source: Any, base: type) -> Any:
    """Build ``{class_path, init_args}``, with arguments checked against signatures. An object is returned as it is.

    LightningCLI plays no part in it: see :data:`DataSource`.

    Raises:
        ValueError: If the class or one of its arguments does not exist.
    """
    if not isinstance(source, Mapping) or any(isinstance(part, DataLoader) for part in source.values()):
        return source
    if "class_path" not in source:
        raise ValueError(
            f"A data source should be an object, or a mapping with `class_path` and `init_args`. Found keys {list(source)}."
        )
    from jsonargparse import ArgumentError, ArgumentParser

    # From the shell, `--data.forget.records.path=FILE` arrives next to `init_args`, not in it.
    outside = {name: value for name, value in source.items() if name not in ("class_path", "init_args")}
    spec = {"class_path": source["class_path"], "init_args": _merged(source.get("init_args") or {}, outside)}
    with suppress(Exception):  # the parser reports it
        locate(str(source["class_path"]))  # imported now: it may be what imports the other of Lightning's packages
    bases = tuple(in_each_package(base.__name__))
    parser = ArgumentParser(exit_on_error=False)
    # Without `SUPPRESS` the default is `None`, the argument becomes optional, and every error starts with a line about
    # `None`, which nobody gave.
    parser.add_subclass_arguments(bases, "source", fail_untyped=False, required=True, default=SUPPRESS)
    try:
        with _without_hyperparameters():
            return parser.instantiate(parser.parse_object({"source": spec})).source
    except ArgumentError as error:
        # Of jsonargparse's nested message, only the lines that say what is wrong; once, though both packages were tried.
        lines = dict.fromkeys(line.strip().removeprefix("- ") for line in str(error).splitlines())
        found = " ".join(line for line in lines if not line.startswith(_AROUND)).strip()
        raise ValueError(f"`{source['class_path']}` should be built from its `init_args`. Found: {found}") from error


@contextmanager
def _without_hyperparameters() -> Iterator[None]:
    """Hide the arguments of the object around: ``save_hyperparameters`` of the one that is built would save those."""
    variables = in_each_package("core.mixins.hparams_mixin._given_hyperparameters")
    tokens = [variable.set(None) for variable in variables]
    try:
        yield
    finally:
        for variable, token in zip(variables, tokens, strict=True):
            variable.reset(token)


class OpenedSource:
    """One kind of data, whatever holds it: a datamodule, a loader, or a data set."""

    def __init__(self, source: Any, name: str) -> None:
        self.source = build(source, pl.LightningDataModule)
        self.name = name

    @property
    def _is_data_module(self) -> bool:
        return lightning_class(self.source, "LightningDataModule") is not None

    def prepare_data(self) -> None:
        """Download, once per machine."""
        if self._is_data_module:
            self.source.prepare_data()

    def setup(self, trainer: pl.Trainer | None, stage: str = "fit") -> None:
        """Load, in every process: for ``fit`` as well as for ``stage``, since probes are training batches in any stage."""
        if self._is_data_module:
            self.source.trainer = trainer
            for needed in dict.fromkeys(["fit", stage]):
                self.source.setup(needed)

    def teardown(self, stage: str) -> None:
        """Release what ``setup`` loaded."""
        if self._is_data_module:
            self.source.teardown(stage)

    def as_given(self) -> Any:
        """Whatever a trainer would train on."""
        if self._is_data_module:
            return self.source.train_dataloader()
        return DataLoader(self.source, batch_size=8) if _is_data_set(self.source) else self.source

    def loader(self) -> Iterable[Any]:
        """Its training batches, as one loader."""
        given = self.as_given()
        if (loader := one_loader(given)) is None:
            raise ValueError(
                f"The {self.name} data should come as a `DataLoader`, several of them, or any iterable of batches. "
                f"Found `{type(given).__name__}`."
            )
        return loader


def loader_of(source: DataSource, name: str, trainer: pl.Trainer | None) -> Iterable[Any]:
    """Open ``source`` for ``trainer``, and give its training batches as one loader."""
    opened = OpenedSource(source, name)
    opened.prepare_data()
    opened.setup(trainer)
    return opened.loader()


def sources_by_name(given: DataSource | Mapping[str, DataSource] | None) -> dict[str, DataSource]:
    """Several sources, by name: a mapping without a ``class_path``. Empty for one source, and for none.

    Example:
        >>> sources_by_name({"paraphrase": [1]}), sources_by_name({"class_path": "x.Data"}), sources_by_name([1])
        ({'paraphrase': [1]}, {}, {})
    """
    return dict(given) if isinstance(given, Mapping) and "class_path" not in given else {}


def _merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``override``, recursively where both hold a mapping."""
    both = {name for name in base if isinstance(base[name], Mapping) and isinstance(override.get(name), Mapping)}
    return {**base, **override, **{name: _merged(base[name], override[name]) for name in both}}


def _is_data_set(source: Any) -> bool:
    """Whether it gives rows, not batches. Hugging Face's data sets do not inherit from torch's; a list holds batches."""
    by_row = (
        hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, (Sequence, Mapping))
    )
    return isinstance(source, Dataset) or by_row
