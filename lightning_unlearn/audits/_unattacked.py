from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout


class Unattacked(Audit):
    """Another audit, of models that nobody attacks: not repeated at each point of each attack, because it is dear.

    Args:
        audit: What is to be asked, such as answers that have to be generated.

    Example:
        >>> from lightning_unlearn.audits import Generation
        >>> Unattacked(Generation("bundled"))  # RecoveryCheck(audits=[Measure(), Unattacked(...)])
        Unattacked(Generation(max_new_tokens=64))
    """

    under_attack: ClassVar[bool] = False

    def __init__(self, audit: Audit) -> None:
        check_kind("audit", audit, Audit, example='Generation("bundled")')
        self.audit = audit

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        return self.audit(network, readout=readout, probes=probes, engine=engine)

    @override
    def definitions(self) -> dict[str, str]:
        return self.audit.definitions()

    @override
    def see_original(self, network: nn.Module) -> None:
        self.audit.see_original(network)

    @override
    def refuse(self, probes: Mapping[str, Probe]) -> None:
        self.audit.refuse(probes)

    @property
    @override
    def needs_control(self) -> bool:
        return self.audit.needs_control

    @override
    def see_control(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> None:
        self.audit.see_control(network, readout=readout, probes=probes, engine=engine)

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.audit!r})"
