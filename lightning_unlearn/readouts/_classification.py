from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Exchange, Readout, content_key


class ClassificationReadout(Readout):
    """Run a classifier on ``(inputs, labels)``, or on a mapping that holds them.

    The classifier returns its logits ``[B, V]``, or, as Hugging Face's do, an object with ``logits``.

    Args:
        inputs: Where a batch keeps what the network takes: a position, or a key.
        labels: Where it keeps the class ids, ``[B]`` integers. Those equal to -100 are not supervised.

    Raises:
        ValueError: If batch, labels or logits are of another form.

    Example:
        >>> network = nn.Linear(3, 2)
        >>> prediction = ClassificationReadout()(network, (torch.zeros(4, 3), torch.tensor([0, 1, -100, 1])))
        >>> prediction.logits.shape, prediction.example.tolist(), prediction.batch_size
        (torch.Size([3, 2]), [0, 1, 3], 4)
    """

    def __init__(self, inputs: int | str = 0, labels: int | str = 1) -> None:
        self.inputs = inputs
        self.labels = labels

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        inputs, labels = self._split(batch)
        logits = _logits(network(inputs), len(labels))
        example = (labels != IGNORED).nonzero().squeeze(1)
        return Prediction(logits[example], labels[example].long(), example, batch_size=len(labels))

    @override
    def keys(self, batch: Any) -> list[str]:
        inputs, labels = self._split(batch)
        return [content_key(x, y) for x, y in zip(inputs, labels, strict=True)]

    @override
    def exchanges(self, batch: Any) -> list[Exchange]:
        """An empty question, since an image is no text, and the class as the answer."""
        labels = self._split(batch)[1].cpu()
        nothing = labels.new_empty(0)
        return [Exchange(nothing, nothing if y == IGNORED else y[None]) for y in labels]

    @override
    def with_answers(self, batch: Any, answers: Sequence[Tensor]) -> Any:
        """The same inputs with other classes; an empty answer is not supervised."""
        labels = self._split(batch)[1]
        ids = [int(answer) if len(answer) else IGNORED for answer in answers]
        other = torch.tensor(ids, dtype=labels.dtype, device=labels.device)
        if isinstance(batch, Mapping):
            return {**batch, self.labels: other}
        parts = list(batch)
        parts[int(self.labels)] = other  # a position, as this batch has no keys
        return tuple(parts)

    def _split(self, batch: Any) -> tuple[Tensor, Tensor]:
        try:
            inputs, labels = batch[self.inputs], batch[self.labels]
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"A batch should hold inputs at `{self.inputs!r}` and labels at `{self.labels!r}`. Found {_kind(batch)}. "
                "Say where they are with `ClassificationReadout(inputs=..., labels=...)`."
            ) from None
        if not isinstance(labels, Tensor) or labels.dim() != 1 or torch.is_floating_point(labels):
            found = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels)
            raise ValueError(f"Labels should be class ids, int64 of shape [B]. Found {found}.")
        return inputs, labels


def _logits(output: Any, batch_size: int) -> Tensor:
    logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == batch_size:
        return logits
    found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    raise ValueError(
        f"A classifier should return logits of shape [B, V], B = {batch_size}, or an object with `logits`. Found {found}. "
        "Write a `Readout` of your own: one `Prediction` from a network and a batch."
    )


def _kind(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with keys {list(batch)}"
    if isinstance(batch, Sequence):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
