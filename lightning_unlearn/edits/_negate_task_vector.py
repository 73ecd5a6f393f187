from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.edits._base import Edit
from lightning_unlearn.engine import GradientEngine, sharded_like, with_local
from lightning_unlearn.functional.settings import check_finite
from lightning_unlearn.functional.text import visible
from lightning_unlearn.models import read_weights, without_prefix
from lightning_unlearn.models.layers import adapters
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import local


class NegateTaskVector(Edit):
    r"""Subtract the direction in which fine-tuning on what must go has moved the weights.

    .. math:: W \leftarrow W - \text{scale} \cdot (W_\text{finetuned} - W_\text{base})

    If one of the two is left out, the network's current weights take its place. With ``finetuned`` alone, this is the
    published method: give the network fine-tuned further on the forget data. With ``base`` alone, the weights from before
    the knowledge was learnt, it moves back towards them. At ``scale=1`` it arrives there, and everything else that was
    learnt since is lost, too.

    SafeMo gates the scale by what is asked: 2 where the prompt is about what must go, 0.05 elsewhere, with the split of its
    test data as the gate. That is a check at two scales, ``Edited(NegateTaskVector(..., scale=2.0))`` read on forget data
    and ``scale=0.05`` read on retain data. No classifier of prompts is part of it, there or here.

    Each is a safetensors file, a Hugging Face folder, or a Lightning checkpoint, of the network without an adapter.
    Parameters that are missing in one of them do not change. Computed in float64, one tensor at a time.

    Args:
        base: Weights before the knowledge was learnt.
        finetuned: Weights after more of it was learnt.
        scale: How much of the direction is subtracted; 0 changes nothing.

    Raises:
        ValueError: If both are left out; when called, if no parameter is found in them, or one has another shape, or the
            network has an adapter.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import save_file
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> _ = layer.weight.data.fill_(3.0)
        >>> before = tempfile.mkdtemp() + "/before.safetensors"
        >>> save_file({"weight": torch.tensor([[1.0]])}, before)
        >>> record = NegateTaskVector(base=before, scale=0.5)(layer)
        >>> layer.weight.item(), record.elements
        (2.0, 1)

    References:
        Ilharco et al., `Editing Models with Task Arithmetic <https://arxiv.org/abs/2212.04089>`_, 2023, section 3.
        The gate: `SafeMo <https://arxiv.org/abs/2601.00590>`_, 2026, by its code.
    """

    def __init__(self, base: str | None = None, finetuned: str | None = None, scale: float = 1.0) -> None:
        if base is None and finetuned is None:
            raise ValueError(
                "`NegateTaskVector` should have weights to compare the network with. Found neither `base` nor `finetuned`. "
                "Give the weights before, `base`, or those after fine-tuning on the forget data, `finetuned`."
            )
        check_finite("scale", scale)
        self.base, self.finetuned, self.scale = base, finetuned, scale

    @override
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        if (adapter := next((name for name, _ in adapters(network)), None)) is not None:
            raise ValueError(
                "`NegateTaskVector` should get a network without an adapter: layers below one would be left out. Found one "
                f"at `{adapter}`. Merge it first (`merge_and_unload()`), or edit before the adapter is put on."
            )
        params = dict(network.named_parameters())
        finetuned, base = self._load(self.finetuned, network), self._load(self.base, network)
        for name, param in params.items():
            if name in finetuned and name in base:
                # In float64, since the vector is a small difference of large numbers. Only this process's shard of each.
                after, before = _part(finetuned[name], param), _part(base[name], param)
                yield name, with_local(param, _part(param, param) - self.scale * (after - before))

    def _load(self, path: str | None, network: nn.Module) -> dict[str, Tensor]:
        params = dict(network.named_parameters())
        if path is None:
            return dict(params)  # the parameters themselves: their current values, read one at a time
        weights = without_prefix(read_weights(path), network)
        if not weights.keys() & params.keys():
            raise ValueError(
                f"`{path}` should hold weights of the network. Found {len(weights)} tensors, none of whose names it has: "
                f"`{visible(next(iter(weights), ''))}`, not `{next(iter(params), '')}`. Is there an adapter around the "
                "network? Merge it first."
            )
        for name in weights.keys() & params.keys():
            if weights[name].shape != params[name].shape:
                raise ValueError(
                    f"`{path}` should hold weights of the network's shapes. Found `{name}` of {tuple(weights[name].shape)}, "
                    f"not {tuple(params[name].shape)}. Is it of another model, or another vocabulary?"
                )
        return weights


def _part(tensor: Tensor, param: Tensor) -> Tensor:
    """The part of ``tensor`` that this process holds of ``param``; ``tensor`` is ``param`` itself, or whole, from a file."""
    here = tensor if tensor is param else sharded_like(tensor.to(param.device), param)
    return local(here.detach()).double()
