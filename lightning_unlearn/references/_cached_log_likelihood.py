from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import KnownLikelihood
from lightning_unlearn.readouts import Readout, read_for_a_loss
from lightning_unlearn.references._base import Reference, refuse_other_kind
from lightning_unlearn.references._cache_file import CacheFile, make_writable
from lightning_unlearn.references._origin import origin_of
from lightning_unlearn.runtime import eval_without_grad, in_main_memory, on_every_rank


class CachedLogLikelihood(Reference):
    """The original model's log-likelihoods, computed once per forget example before the first step.

    Examples are recognised by their content (token ids and labels without padding), so the user's data set needs no index.
    The cache goes into the checkpoint: four bytes per supervised token.

    With ``folder`` the values are kept on disk as well, exactly. The next run takes them from there, and an interrupted
    sweep goes on where it stopped. They are found by a hash of all that decides them: weights, architecture, readout and
    its settings, precision of the pass, versions of torch and transformers. A network that differs in any of these does
    not get them. Damaged lines are computed again, with a warning. A checkpoint needs nothing from the folder.

    Args:
        folder: Where likelihoods are kept for other runs. Several runs, and ranks, may share one.

    Raises:
        ValueError: In :meth:`sweep`, if the readout's likelihoods cannot be kept by example.
        KeyError: For an example that was not in the forget data at the start, as with random augmentation.
        OSError: In :meth:`attach`, if ``folder`` cannot be written.
    """

    gives_logits = False
    needs_sweep = True

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._nll: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Number of examples known."""
        return len(self._nll)

    @override
    def start_anew(self) -> None:
        self._nll = {}

    @override
    def attach(self, network: nn.Module) -> None:
        super().attach(network)
        if self.folder is not None:
            make_writable(self.folder)

    @override
    def sweep(self, readout: Readout, batches: Iterable[Any]) -> None:
        if (reason := readout.why_not_cached) is not None:
            raise ValueError(
                f"`CachedLogLikelihood` should find each example again by its content. Found `{readout!r}`, which gives "
                f"{reason}. Use `FrozenCopy()` as the reference, or leave `reference` out."
            )
        if self.folder is None:
            for batch in batches:
                self.add(self._nll_by_key(readout, batch, readout.keys(in_main_memory(batch))))
            return
        with CacheFile(self.folder, origin_of(self.network, readout)) as file:
            for batch in batches:
                keys = readout.keys(in_main_memory(batch))
                # If one rank has to run a sharded network, all have to.
                if not all(on_every_rank(file.known.keys() >= set(keys))):
                    file.append(self._nll_by_key(readout, batch, keys))
                self.add({key: file.known[key] for key in keys})

    def _nll_by_key(self, readout: Readout, batch: Any, keys: list[str]) -> dict[str, Tensor]:
        with eval_without_grad(self.network), read_for_a_loss():
            prediction = readout(self.network, batch)
            nll = prediction.token_nll()
        # `split` needs the rows of an example together; a stable sort keeps them in the order of its tokens.
        by_example = nll[prediction.example.argsort(stable=True)].float().cpu()
        return dict(zip(keys, by_example.split(prediction.rows_per_example().tolist()), strict=True))

    @property
    def known(self) -> dict[str, Tensor]:
        """Negative log-likelihood of each supervised token, ``[n]`` float32, by the key of its example."""
        return dict(self._nll)

    def add(self, known: dict[str, Tensor]) -> None:
        """Add likelihoods, such as those that another process computed."""
        self._nll.update(known)

    @override
    def __call__(self, readout: Readout, batch: Any) -> KnownLikelihood:
        keys = readout.keys(in_main_memory(batch))
        if missing := [k for k in keys if k not in self._nll]:
            raise KeyError(
                f"Every forget example should have been there when the reference was cached. Found {len(missing)} of "
                f"{len(keys)} in this batch that were not: is the forget data augmented at random, has it changed since "
                "the checkpoint, or do batches hold the images of all rows in one tensor? Use `FrozenCopy()` as the "
                "reference."
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
        refuse_other_kind(self, state, "keys")
        self._nll = dict(zip(state["keys"], state["nll"].split(state["lengths"]), strict=True))
