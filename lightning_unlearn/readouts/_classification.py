from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Exchange, Readout, content_key
from lightning_unlearn.readouts._padding import inside

_LABELS = ("labels", "label", "targets", "target", "y")
"""Under which name a batch of named parts keeps its labels, if nobody says."""

_WAY_OUT = (
    "Say where they are with `ClassificationReadout(inputs=..., labels=...)`; write a `Readout` of your own (docs: Write a "
    "readout); or use `TrainingStepReadout()` in a fit, for the loss alone."
)


class ClassificationReadout(Readout):
    """Run a classifier on ``(inputs, labels)``, or on a mapping of named parts, among them the labels.

    The classifier returns its logits ``[B, V]``, or, as Hugging Face's do, an object with ``logits``. A mapping is passed
    by name, whole, but for the labels (``network(input_ids=..., attention_mask=...)``); the labels too if ``forward`` cannot
    do without. Nothing of a batch is dropped, unless ``inputs`` says so.

    Args:
        inputs: Where a batch keeps what the network takes: a position, or a key. Defaults to all but the labels.
        labels: Where it keeps the class ids, ``[B]`` integers. Those equal to -100 are not supervised. Defaults to the
            second of two parts; in a mapping, to ``labels``, ``label``, ``targets``, ``target`` or ``y``.

    Raises:
        ValueError: If batch, labels or logits are of another form.

    Example:
        >>> network = nn.Linear(3, 2)
        >>> prediction = ClassificationReadout()(network, (torch.zeros(4, 3), torch.tensor([0, 1, -100, 1])))
        >>> prediction.logits.shape, prediction.example.tolist(), prediction.batch_size
        (torch.Size([3, 2]), [0, 1, 3], 4)
    """

    def __init__(self, inputs: int | str | None = None, labels: int | str | None = None) -> None:
        self.inputs = inputs
        self.labels = labels

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        place, labels = self._labels(batch)
        logits = _logits(self._run(network, batch, place), len(labels))
        example = (labels != IGNORED).nonzero().squeeze(1)
        return Prediction(logits[example], labels[example].long(), example, batch_size=len(labels))

    @override
    def keys(self, batch: Any) -> list[str]:
        place, labels = self._labels(batch)
        parts = list(_parts_beside(batch, place).values()) if self.inputs is None else [batch[self.inputs]]
        by_example = [part for part in parts if isinstance(part, Tensor) and part.dim() and len(part) == len(labels)]
        mask = self._mask(batch)
        rows = [list(part) if mask is None else _without_padding(part, inside(mask)) for part in by_example]
        return [content_key(*example) for example in zip(*rows, labels, strict=True)]

    @override
    def present(self, batch: Any) -> Tensor | None:
        """The mask's positions, if the batch is text that comes with one."""
        mask = self._mask(batch)
        ids = None if mask is None else batch.get("input_ids")
        return mask if isinstance(ids, Tensor) and mask is not None and ids.shape == mask.shape else None

    @override
    def exchanges(self, batch: Any) -> list[Exchange]:
        """An empty question, since an image is no text, and the class as the answer."""
        labels = self._labels(batch)[1].cpu()
        nothing = labels.new_empty(0)
        return [Exchange(nothing, nothing if y == IGNORED else y[None]) for y in labels]

    @override
    def with_answers(self, batch: Any, answers: Sequence[Tensor]) -> Any:
        """The same inputs with other classes; an empty answer is not supervised."""
        place, labels = self._labels(batch)
        ids = [int(answer) if len(answer) else IGNORED for answer in answers]
        other = torch.tensor(ids, dtype=labels.dtype, device=labels.device)
        if isinstance(batch, Mapping):
            return {**batch, place: other}
        parts = list(batch)
        parts[int(place)] = other  # a position, as this batch has no keys
        return tuple(parts)

    def _mask(self, batch: Any) -> Tensor | None:
        """Which positions are shown, ``[B, T]`` bool, if there is a mask."""
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) and self.inputs is None else None
        return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def _run(self, network: nn.Module, batch: Any, place: int | str) -> Any:
        if self.inputs is not None:
            return network(batch[self.inputs])
        named = _parts_beside(batch, place)
        if not isinstance(batch, Mapping):
            return network(*named.values())
        if _needs(network, str(place)):
            named[place] = batch[place]
        if _takes(network, named):
            return network(**named)
        if len(named) == 1:  # under another name in `forward`; several parts are told apart by their names alone
            return network(*named.values())
        raise ValueError(
            f"`forward` of `{type(network).__name__}` should take all parts of a batch by name: {list(named)}. Found "
            f"`forward{inspect.signature(network.forward)}`. {_WAY_OUT}"
        )

    def _labels(self, batch: Any) -> tuple[int | str, Tensor]:
        """Where the labels are, and what they are."""
        place = self.labels if self.labels is not None else _find_labels(batch, self.inputs)
        try:
            labels = batch[place]
            if self.inputs is not None:
                batch[self.inputs]
        except (KeyError, IndexError, TypeError):
            raise self._unreadable(batch) from None
        if not isinstance(labels, Tensor) or labels.dim() != 1 or torch.is_floating_point(labels):
            found = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels)
            raise ValueError(f"Labels should be class ids, int64 of shape [B]. Found {found}. {_WAY_OUT}")
        return place, labels  # type: ignore[return-value]  # `None` is no key

    def _unreadable(self, batch: Any) -> ValueError:
        given = {"inputs": self.inputs, "labels": self.labels}
        where = " and ".join(f"{what} at `{place!r}`" for what, place in given.items() if place is not None)
        wanted = where or "two parts, inputs and labels, or named parts with labels among them"
        return ValueError(f"A batch should hold {wanted}. Found {_kind(batch)}. {_WAY_OUT}")


def _without_padding(part: Tensor, within: Tensor) -> list[Tensor]:
    """The rows of ``part``, without padding if it holds something for each position, such as ids, types or boxes."""
    if part.dim() > 3 or part.shape[:2] != within.shape:
        return list(part)
    return [row[shown] for row, shown in zip(part, within.to(part.device), strict=True)]


def _find_labels(batch: Any, inputs: int | str | None) -> int | str | None:
    if isinstance(batch, Mapping):
        return next((name for name in _LABELS if name in batch and name != inputs), None)
    # With more parts than two, some would be dropped: the user has to say which are meant.
    return 1 if isinstance(batch, Sequence) and (len(batch) == 2 or inputs is not None) else None


def _parts_beside(batch: Any, place: int | str) -> dict[Any, Any]:
    """All parts of a batch but the labels, by key or position."""
    items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return {name: part for name, part in items if name != place}


def _takes(network: nn.Module, named: Mapping[Any, Any]) -> bool:
    try:
        inspect.signature(network.forward).bind(**named)
    except (TypeError, ValueError):
        return False
    return True


def _needs(network: nn.Module, label: str) -> bool:
    """Whether ``forward`` has the labels among its arguments, and no default for them."""
    param = inspect.signature(network.forward).parameters.get(label)
    return param is not None and param.default is inspect.Parameter.empty and param.kind != param.VAR_KEYWORD


def _logits(output: Any, batch_size: int) -> Tensor:
    logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == batch_size:
        return logits
    found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    raise ValueError(
        f"A classifier should return logits of shape [B, V], B = {batch_size}, or an object with `logits`. Found {found}. "
        "Use `TrainingStepReadout()`, or write a `Readout` of your own: one `Prediction` from a network and a batch."
    )


def _kind(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with keys {list(batch)}"
    if isinstance(batch, Sequence):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
