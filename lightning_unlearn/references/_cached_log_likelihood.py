from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.modes import looking
from lightning_unlearn.prediction import KnownLikelihood
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references._base import Reference


class CachedLogLikelihood(Reference):
    """The original model's log-likelihoods, computed once per forget example before the first step.

    Examples are recognised by their content (token ids and labels, whatever their padding), so the cache needs no index
    from the user's data set. It goes into the checkpoint: four bytes a supervised token.

    Raises:
        KeyError: If asked about an example that was not there at the start, as with random augmentation.
    """

    gives_logits = False
    needs_sweep = True

    def __init__(self) -> None:
        self._nll: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Number of examples known."""
        return len(self._nll)

    @override
    def sweep(self, readout: Readout, batches: Iterable[Any]) -> None:
        for batch in batches:
            with looking(self.network):
                said = readout(self.network, batch)
            by_example = said.token_nll()[said.example.argsort(stable=True)].float().cpu()
            self.add(dict(zip(readout.keys(batch), by_example.split(said.rows_per_example().tolist()), strict=True)))

    @property
    def known(self) -> dict[str, Tensor]:
        """Negative log-likelihood of each supervised token, ``[n]`` float32, by the key of its example."""
        return dict(self._nll)

    def add(self, known: dict[str, Tensor]) -> None:
        """Take over what another process computed."""
        self._nll.update(known)

    @override
    def __call__(self, readout: Readout, batch: Any) -> KnownLikelihood:
        keys = readout.keys(batch)
        if missing := [k for k in keys if k not in self._nll]:
            raise KeyError(
                f"Every forget example should have been there when the reference was cached. Found {len(missing)} of "
                f"{len(keys)} in this batch that were not: is the forget data augmented at random, or has it changed "
                "since the checkpoint? Use `FrozenCopy()` as the reference."
            )
        rows = [self._nll[k] for k in keys]
        counts = torch.tensor([len(r) for r in rows])
        device = next(self.network.parameters()).device
        example = torch.arange(len(rows)).repeat_interleave(counts)
        return KnownLikelihood(torch.cat(rows).to(device), example.to(device), batch_size=len(rows))

    @override
    def state_dict(self) -> dict[str, Any]:
        rows = list(self._nll.values())
        nll = torch.cat(rows) if rows else torch.empty(0)
        return {"keys": list(self._nll), "lengths": [len(r) for r in rows], "nll": nll}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._nll = dict(zip(state["keys"], state["nll"].split(state["lengths"]), strict=True))
