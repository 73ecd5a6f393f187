from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lightning_unlearn.data import Encoding, Records
from lightning_unlearn.requests._ledger import Entry
from lightning_unlearn.requests._request import Request


@dataclass(frozen=True)
class Job:
    """One request to be carried out.

    Args:
        number: Of its entry in the ledger.
        request: What must go.
        network: With the weights that the request before has left; it is trained in place.
        retain: What must stay: nothing that a request names.
        encoding: How rows become tokens.
        seed: Of all that is random; that of this request alone.
        done: The entries of the requests before, oldest first.
        earlier: These requests.
        folder: For whatever should be kept of it.
        adapters: Files with their adapters, as PEFT names the factors, where :class:`AdaptersAlone` keeps them: for a method
            that protects what earlier requests have changed, such as RegLoRA.
    """

    number: int
    request: Request
    network: nn.Module
    retain: Records
    encoding: Encoding
    seed: int
    done: Sequence[Entry]
    earlier: Sequence[Request]
    folder: Path
    adapters: Sequence[Path] = ()


class RequestFit(ABC):
    """How one request is carried out: what is trained, and by which fit."""

    @abstractmethod
    def network(self) -> nn.Module:
        """A network to train, the same at each call: with its first weights, and a new adapter if one is trained."""

    def teach_(self, network: nn.Module, requests: Sequence[Request], retain: Records) -> None:
        """Prepare the weights of the start, once. Does nothing by default."""

    @abstractmethod
    def forget_(self, job: Job) -> Mapping[str, Any]:
        """Carry out a request on ``job.network``.

        It should depend on nothing but the job: a request that was interrupted is carried out again from its beginning.

        Returns:
            Plain values for the ledger, such as the number of steps: the same each time, so no times.
        """

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that decides what it does, as plain values, for the ledger."""
