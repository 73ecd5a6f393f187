from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from lightning_unlearn.audits import Audit
from lightning_unlearn.data import Encoding, Records
from lightning_unlearn.functional.settings import check_kind, check_whole
from lightning_unlearn.requests._digest import digest_of, weights_digest
from lightning_unlearn.requests._folder import SequenceFolder
from lightning_unlearn.requests._ledger import Entry, in_effect, locked
from lightning_unlearn.requests._measured import Known, Measured
from lightning_unlearn.requests._named import Unnamed
from lightning_unlearn.requests._request import RETAIN, Request, check_requests
from lightning_unlearn.requests._request_fit import Job, RequestFit
from lightning_unlearn.requests._request_gates import RequestGates
from lightning_unlearn.requests._weights import (
    Keeping,
    Weights,
    WholeWeights,
    copy_,
    plain_network,
    plain_weights,
    write_,
)


class RequestSequence:
    """One deletion request after another, one fit each, with a ledger.

    In ``folder`` there are ``ledger.jsonl`` (see :class:`Ledger`), ``weights`` by number of the entry, ``configurations`` by
    their hash, ``costs.jsonl`` with the seconds of each request, and a folder for each request.

    **Killed at any moment**, it goes on with the request that was not finished, from that one's beginning, when :meth:`run`
    is called again: with the ledger and the weights of a run that was not interrupted, where the fit gives the same bits
    each time, as on a CPU. That is why times are not in the ledger.

    **What was forgotten stays so.** Retain data hold nothing that any request names, also none that is still to come: see
    :class:`Unnamed`. Every ``every`` requests, and after the last, all are looked at again. What comes back fails a gate:
    see :class:`RequestGates`. A failed gate is in the ledger; it stops nothing.

    **Undo.** :meth:`undo` gives the weights of any request bit for bit, and writes an entry of its own. The requests
    after it are no longer in effect: :meth:`run` carries them out again if they are asked for.

    Figures in an entry are mean values of ``metric``: ``forget`` of the request's rows at the ``start`` of the sequence,
    ``before`` its fit and ``after`` it; ``retain`` at the start and after; ``audited`` of all requests by name, where they
    were looked at, and what they were at the ``start``; and ``fit``, what the fit says of itself.

    Args:
        folder: Where everything goes.
        fit: How a request is carried out.
        retain: What must stay.
        encoding: How rows become tokens.
        keeping: What is kept of each request: :class:`WholeWeights` or :class:`AdaptersAlone`.
        gates: What has to hold.
        every: After how many requests all are looked at again.
        audit: What is measured of each request. Defaults to the probability of the right answer.
        metric: The metric of ``audit`` that gates and curves are of.
        batch_size: Rows per forward pass.
        retain_rows: How many retain rows are looked at, the first ones.
        device: Where it is measured.
        seed: With the name of a request, the seed of its fit.

    Raises:
        ValueError: When it runs, if the ledger or weights were tampered with, or a request has other rows than before.

    Example:
        >>> from lightning_unlearn import NPO, TinyCausalLM
        >>> from lightning_unlearn.data import FileRecords
        >>> sequence = RequestSequence(
        ...     "runs/requests",
        ...     TrainerFit(TinyCausalLM, NPO(), epochs=3),
        ...     retain=FileRecords("bundled:people", entity="entity"),
        ...     encoding=Encoding("bundled"),
        ... )  # doctest: +SKIP
        >>> sequence.run(read_requests("requests.jsonl", entity="entity"))  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | Path,
        fit: RequestFit,
        retain: Records,
        encoding: Encoding,
        *,
        keeping: Keeping | None = None,
        gates: RequestGates = RequestGates(),  # noqa: B008  # frozen
        every: int = 5,
        audit: Audit | None = None,
        metric: str = "probability",
        batch_size: int = 8,
        retain_rows: int = 64,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        check_kind("fit", fit, RequestFit, example="TrainerFit(network, NPO())")
        check_kind("retain", retain, Records, example='FileRecords("retain.jsonl")')
        check_whole("every", every)
        self.folder = SequenceFolder(folder)
        self.fit, self.retain, self.encoding, self.gates, self.every, self.seed = (
            fit,
            retain,
            encoding,
            gates,
            every,
            seed,
        )
        self.keeping = WholeWeights() if keeping is None else keeping
        self.measured = Measured(encoding, audit, metric, batch_size, retain_rows, device)

    def run(self, requests: Sequence[Request]) -> list[Entry]:
        """Carry out what is not in effect yet, in order.

        Args:
            requests: All requests, also those that were carried out: they are looked at again, and kept out of retain data.

        Returns:
            The entries of the ledger.
        """
        check_requests(requests)
        path = self.folder.writable()
        with locked(path):
            self.folder.ledger.repair()
            retain = Unnamed(self.retain, requests)
            network = self._started(requests, retain)
            done = in_effect(self.folder.checked_entries())
            self._refuse_others(done, requests)
            todo = [request for request in requests if request.id not in {entry.request for entry in done}]
            if todo:
                write_(network, self.folder.start_weights())
                known = self.measured(network, requests, retain)
                weights = self.weights()
                for request in todo:
                    last = request is todo[-1]
                    weights = self._carry_out(request, weights, known, requests, retain, last)
            return self.folder.ledger.entries()

    def known(self, weights: Weights, requests: Sequence[Request]) -> Known:
        """What a network with other weights knows of each request and of what must stay, such as one that never knew."""
        copy_(network := self.fit.network(), weights)
        return self.measured(plain_network(network), requests, Unnamed(self.retain, requests))

    def undo(self, request: str = "") -> Weights:
        """Go back to the weights after ``request``, by default to those of the start, and write so in the ledger.

        Returns:
            These weights, by name, on the CPU.
        """
        with locked(self.folder.writable()):
            self.folder.ledger.repair()
            weights = self.weights(request)
            entries = self.folder.checked_entries()
            now, target = in_effect(entries)[-1].after, weights_digest(weights)
            last = entries[-1]
            entry = Entry(len(entries), "undo", request, "", last.configuration, now, target, previous=last.hash)
            self.folder.ledger.append(entry)
        return weights

    def weights(self, request: str | None = None) -> Weights:
        """The weights after ``request``; by default those of the last that is in effect. Nothing is written.

        Raises:
            ValueError: If the request is not in effect, or the weights are not those of the ledger.
        """
        done = in_effect(self.folder.checked_entries())
        names = [entry.request for entry in done]
        last = names[-1] if request is None and names else request
        if last not in names:
            raise ValueError(f"`request` should be in effect, one of {names[1:]}. Found `request = {request!r}`.")
        used = done[: names.index(last) + 1]
        self.folder.refuse_other_keeping(used[1:], repr(self.keeping))
        files = [self.folder.weights_of(entry.number) for entry in used[1:]]
        weights = self.keeping.load(self.folder.weights_of(0), files, self.fit.network)
        self.folder.refuse_other_weights(weights, used[-1])
        return weights

    def _started(self, requests: Sequence[Request], retain: Records) -> nn.Module:
        """A network; at the very beginning its weights are those of the start, which are written."""
        network = self.fit.network()
        if self.keeping.needs_adapter and not hasattr(network, "peft_config"):
            raise ValueError(
                f"`{self.keeping!r}` should find a network with an adapter. Found `{type(network).__name__}` without one. "
                "Use `PretrainedCausalLM(..., lora=LoRA())`, or `WholeWeights()`."
            )
        if not self.folder.checked_entries():
            self.fit.teach_(network, requests, self.retain)
            weights = plain_weights(network)
            WholeWeights().save(self.folder.weights_of(0), network, weights)
            digest = weights_digest(weights)
            data = digest_of([row.question + row.answer for row in self.retain.questions()])
            self.folder.ledger.append(Entry(0, "start", "", data, self._configuration(), digest, digest))
        return network

    def _carry_out(
        self,
        request: Request,
        weights: Weights,
        known: Known,
        requests: Sequence[Request],
        retain: Records,
        last: bool,
    ) -> Weights:
        began = time.monotonic()
        entries = self.folder.checked_entries()
        done = in_effect(entries)
        network = self.fit.network()
        write_(network, weights)
        before = self.measured(network, [request], retain)
        told = dict(self.fit.forget_(self._job(len(entries), request, network, retain, requests, done)))
        plain = plain_network(network)
        looks_back = last or len(done) % self.every == 0
        now = self.measured(plain, requests if looks_back else [request], retain)
        figures = _figures(self.measured.metric, request.id, known, before, now, looks_back) | {"fit": told}
        after = plain_weights(plain)
        entry = Entry(
            len(entries),
            "request",
            request.id,
            request.digest,
            self._configuration(),
            weights_digest(weights),
            weights_digest(after),
            figures,
            self.gates.failed(request.id, figures, done),
            entries[-1].hash,
        )
        self.keeping.save(self.folder.weights_of(entry.number), network, after)
        self.folder.ledger.append(entry)
        self.folder.add_cost(entry.number, request.id, time.monotonic() - began)
        return after

    def _job(
        self,
        number: int,
        request: Request,
        network: nn.Module,
        retain: Records,
        requests: Sequence[Request],
        done: Sequence[Entry],
    ) -> Job:
        by_name = {each.id: each for each in requests}
        earlier = [by_name[entry.request] for entry in done[1:]]
        # By name, not by number: a request that is undone and carried out again has the same fit.
        seed = int(digest_of([self.seed, request.id])[:8], 16)
        folder = self.folder.of_request(number, request.id)
        adapters = [self.folder.weights_of(entry.number) for entry in done[1:] if self.keeping.needs_adapter]
        return Job(number, request, network, retain, self.encoding, seed, done[1:], earlier, folder, adapters)

    def _configuration(self) -> str:
        return self.folder.keep_configuration(
            {
                "fit": dict(self.fit.settings()),
                "keeping": repr(self.keeping),
                "gates": asdict(self.gates),
                "every": self.every,
                "measured": self.measured.settings(),
                "seed": self.seed,
            }
        )

    def _refuse_others(self, done: Sequence[Entry], requests: Sequence[Request]) -> None:
        given = {request.id: request.digest for request in requests}
        for entry in done[1:]:
            if entry.request not in given:
                raise ValueError(
                    f"`requests` should hold those that were carried out, too, to look at them again. Found no "
                    f"`{entry.request}`. Add it, or `undo` what came after the one before it."
                )
            if given[entry.request] != entry.data:
                raise ValueError(
                    f"A request that was carried out should have the rows that it had. Found others in `{entry.request}`. "
                    "Give further rows as a request of another name."
                )


def _figures(metric: str, name: str, known: Known, before: Known, now: Known, looks_back: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "metric": metric,
        "forget": {"start": known[name], "before": before[name], "after": now[name]},
        "retain": {"start": known[RETAIN], "after": now[RETAIN]},
    }
    if looks_back:
        figures["audited"] = {other: value for other, value in now.items() if other != RETAIN}
        figures["start"] = {other: value for other, value in known.items() if other != RETAIN}
    return figures
