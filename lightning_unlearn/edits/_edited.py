from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from lightning_unlearn.attacks import Attack
from lightning_unlearn.attacks._base import BatchLoss, Need
from lightning_unlearn.attacks._perturbed import refuse_flattened, restored
from lightning_unlearn.edits._base import Edit, EditRecord
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.readouts import Readout, choose_readout


@contextmanager
def edited(edit: Edit, network: nn.Module, *, restore: bool = True, **data: Any) -> Iterator[EditRecord]:
    """Let a network be edited until the block is left; then every parameter is what it was, to the bit.

    Args:
        edit: What is done.
        network: The live network.
        restore: Whether it is undone; else the block is left with the edit.
        data: As :class:`Edit` takes it: ``forget``, ``retain``, ``readout``, ``engine``.

    Yields:
        The record of the edit.

    Example:
        >>> from lightning_unlearn.edits import Corrupt
        >>> layer = nn.Linear(1, 1)
        >>> before = layer.weight.item()
        >>> with edited(Corrupt(alpha=1.0), layer) as record:
        ...     layer.weight.item() == 0, record.elements
        (True, 2)
        >>> layer.weight.item() == before
        True
    """
    if not restore:
        yield edit(network, **data)
        return
    with restored(network, list(network.parameters()), store="cpu"):
        yield edit(network, **data)


class Edited(Attack):
    """An edit for the time of a check: what would the network be after it? Afterwards it is undone, to the bit.

    In a :class:`RecoveryCheck` it stands beside the attacks, so that edits are compared in one report, on the same network.
    An edit that needs data gets the attacker's own as what must go; a check can give others by ``data``. What must stay is
    what the fit keeps.

    Args:
        edit: What is done. :class:`WithinBudget` measures on data of its own: give it ``neutral``.
        readout: How to run the network. Defaults to what fits it, as in :class:`Unlearn`.
        data: As in :class:`Attack`: the name of the data that must go, in a check that has several.

    Raises:
        NotImplementedError: When called, under FSDP1 or DeepSpeed.

    Example:
        >>> from lightning_unlearn import RecoveryCheck
        >>> from lightning_unlearn.edits import Dampen, ResetNeurons
        >>> check = RecoveryCheck(attacks={"dampened": Edited(Dampen()), "reset": Edited(ResetNeurons())})
    """

    family: ClassVar[str] = "edit"
    unit: ClassVar[str] = "edit"

    def __init__(self, edit: Edit, readout: Readout | None = None, data: str | None = None) -> None:
        check_kind("edit", edit, Edit, example="Dampen()")
        self.edit, self.readout, self.data = edit, readout, data
        self.needs_data = _needs(edit)
        self._record: EditRecord | None = None

    @override
    def about(self, point: float) -> dict[str, Any]:
        """What the edit changed."""
        record = self._record
        return {} if record is None else {"elements": record.elements, "relative_change": record.relative_change}

    @override
    def see_original(self, network: nn.Module) -> None:
        """Show it to the edit."""
        self.edit.see_original(network)

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[float]]:
        engine = GradientEngine(network) if engine is None else engine
        refuse_flattened(engine, "`Edited`")
        given: Any = batches
        both = given if isinstance(given, Mapping) else {"attack": given, "beside": given}
        forget = list(both["attack"]) if self.edit.needs_forget else []
        retain = list(both["beside"]) if self.edit.needs_retain else []
        readout = choose_readout(network) if self.readout is None else self.readout
        with edited(self.edit, network, forget=forget, retain=retain, readout=readout, engine=engine) as record:
            self._record = record
            yield iter((1.0,))


def _needs(edit: Edit) -> Need | None:
    if edit.needs_forget:
        return "both" if edit.needs_retain else "attack"
    return "retain" if edit.needs_retain else None
