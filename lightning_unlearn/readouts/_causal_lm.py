from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.models.layers import eager_if_inside_compiled, output_head
from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Exchange, Readout, content_key
from lightning_unlearn.readouts._language_model import inputs_of, is_language_model, refuse_not_causal
from lightning_unlearn.readouts._splice import cut_rows, splice
from lightning_unlearn.readouts._tied import tied_cheaply

_TEXT = {"input_ids", "attention_mask", "labels"}


class CausalLMReadout(Readout):
    """Run a Hugging Face causal language model, bare or wrapped by PEFT, and read it at supervised positions only.

    The hidden states are gathered at the positions that predict a label *before* the output head: a batch of ``B`` rows
    of ``T`` tokens, ``N`` of them supervised, costs ``N x V`` logits instead of ``B x T x V``. This is done by a hook on
    the head for the length of one call, so whatever the model does behind its head (scaling, soft caps) still happens.
    Where the head cannot be found, or does not see one hidden state per position, the full logits are computed and
    gathered: the same to rounding.

    A batch is a mapping with ``input_ids [B, T]`` and ``labels [B, T]`` (not shifted, -100 where not supervised).
    ``attention_mask`` and other arguments of the model's ``forward`` are passed to it; other entries of the batch
    (entities, row numbers) are not.

    A compiled network runs eagerly here if its head is compiled too, since a compiled head ignores hooks. If only the
    decoder is compiled, by ``network.model.compile()``, it runs compiled.

    Args:
        keep_features: Keep the gathered hidden states as ``Prediction.features``.

    Raises:
        ValueError: If there is no causal language model, or the batch lacks ``input_ids`` or ``labels``.

    References:
        Label convention: `Hugging Face, causal language modelling
        <https://huggingface.co/docs/transformers/tasks/language_modeling>`_.
    """

    def __init__(self, keep_features: bool = False) -> None:
        self.keep_features = keep_features

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The first PEFT or Hugging Face model inside ``module``, outermost first."""
        for candidate in module.modules():
            if is_language_model(candidate):
                refuse_not_causal(candidate)
                return candidate
        raise ValueError(
            f"`CausalLMReadout` should find a Hugging Face model inside the module. Found none in `{type(module).__name__}`."
            " Use the readout that fits your network, for example `ClassificationReadout()`."
        )

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        refuse_not_causal(network)
        labels = _labels(batch)
        supervised = _supervised(batch, labels)
        logits, features = self._read(network, batch, supervised)
        example = supervised.nonzero()[:, 0]
        # `labels[:, 1:]`: the label of a position is the next token, and `supervised` is shifted in the same way.
        return Prediction(logits, labels[:, 1:][supervised].long(), example, batch_size=len(labels), features=features)

    def _read(self, network: nn.Module, batch: Any, supervised: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits ``[N, V]`` and features at the positions that predict a ``supervised [B, T-1]`` label."""
        gathered: list[Tensor] = []
        head = output_head(network)
        with (
            _gathering(head, supervised, gathered),
            eager_if_inside_compiled(network, head),
            tied_cheaply(network, head),
        ):
            logits = network(**inputs_of(network, batch)).logits
        # [N, V] if the head saw gathered states; [B, T, V] if the hook could not gather, or there is no head to put it on.
        if logits.dim() == 3:
            logits = _before_labels(logits, supervised)
        if self.keep_features and not gathered:
            raise ValueError(
                "`keep_features=True` should find an output head that sees one hidden state per position. Found none in "
                f"`{type(network).__name__}`. Use `keep_features=False`."
            )
        return logits, gathered[0] if self.keep_features else None

    @override
    def present(self, batch: Any) -> Tensor | None:
        """The mask's positions; without a mask, those up to the last label of each row."""
        return _present(batch, _labels(batch))

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of tokens and labels, and of all other inputs: pixels, sound, types of tokens."""
        labels = _labels(batch)
        present = _present(batch, labels)
        beside = _inputs_beside(batch, labels)
        # Padding is cut off first: the same example has the same key in a wider batch.
        return [
            content_key(
                *(values[row][present[row].to(values.device)] for values in (batch["input_ids"], labels)),
                *(v[row][present[row].to(v.device)] if v.shape == labels.shape else v[row] for v in beside),
            )
            for row in range(len(labels))
        ]

    @override
    def exchanges(self, batch: Any) -> list[Exchange] | None:
        """The tokens before the first supervised label, and the supervised tokens.

        ``None`` if another input has a value for each token: it would not fit an answer of another length.
        """
        labels = _labels(batch)
        if not _is_spliceable(batch, labels):
            return None
        asked, supervised = _asked(batch, labels)
        return cut_rows(batch["input_ids"], asked, supervised)

    @override
    def with_answers(self, batch: Any, answers: Sequence[Tensor]) -> dict[str, Any]:
        """The tokens of each question, then those of its new answer, padded on the right."""
        labels = _labels(batch)
        return splice(batch, _asked(batch, labels)[0], batch.get("attention_mask"), answers)


def _labels(batch: Any) -> Tensor:
    if not isinstance(batch, Mapping) or "input_ids" not in batch or "labels" not in batch:
        found = f"a mapping with keys {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise ValueError(
            f"A batch should be a mapping with `input_ids` and `labels`. Found {found}. "
            "`QuestionAnswerData` makes such batches; or return them from your own `collate_fn`."
        )
    labels: Tensor = batch["labels"]
    if labels.dim() != 2 or labels.shape != batch["input_ids"].shape:
        raise ValueError(
            "`input_ids` and `labels` should be of one shape, [B, T]: labels are not shifted. Found "
            f"{tuple(batch['input_ids'].shape)} and {tuple(labels.shape)}."
        )
    return labels


def _supervised(batch: Mapping[str, Any], labels: Tensor) -> Tensor:
    """Which positions predict a label, ``[B, T-1]`` bool: position ``t`` predicts the label at ``t + 1``."""
    mask = _mask(batch, labels)
    # The first label is never predicted, since no position stands before it.
    supervised = labels[:, 1:] != IGNORED
    # With padding on the left, the position before the first token is padding: it has read nothing to predict from.
    return supervised if mask is None else supervised & _inside(mask)[:, :-1]


def _inside(mask: Tensor) -> Tensor:
    """All positions from the first to the last unmasked one, ``[B, T]`` bool: a mask may also hide tokens between them."""
    begun, goes_on = mask.cumsum(1) > 0, mask.flip(1).cumsum(1).flip(1) > 0
    return begun & goes_on


def _present(batch: Mapping[str, Any], labels: Tensor) -> Tensor:
    """Which positions are not padding, ``[B, T]`` bool."""
    mask = _mask(batch, labels)
    if mask is not None:
        return mask
    # Without a mask, nothing tells padding from text. Attention is causal, so tokens after the last label change no
    # prediction, and count as padding. A row without labels counts in full.
    supervised = labels != IGNORED
    later = supervised.flip(1).cumsum(1).flip(1) > 0
    return later | ~supervised.any(1, keepdim=True)


def _mask(batch: Mapping[str, Any], labels: Tensor) -> Tensor | None:
    mask = batch.get("attention_mask")
    return mask.bool() if isinstance(mask, Tensor) and mask.shape == labels.shape else None


def _asked(batch: Mapping[str, Any], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens stand before the first supervised one, and which are supervised, ``[B, T]`` bool each."""
    mask = _mask(batch, labels)
    # Tokens that the mask hides inside a row still belong to the question; `splice` keeps them hidden.
    inside = _present(batch, labels) if mask is None else _inside(mask)
    supervised = F.pad(_supervised(batch, labels), (1, 0))
    return inside & (supervised.int().cumsum(1) == 0), supervised


def _inputs_beside(batch: Mapping[str, Any], labels: Tensor) -> list[Tensor]:
    """The other inputs of an example, in the order of their names. One number per example, such as its row, is no input."""
    values = (batch[name] for name in sorted(set(batch) - _TEXT))
    return [v for v in values if isinstance(v, Tensor) and v.dim() > 1 and len(v) == len(labels)]


def _is_spliceable(batch: Mapping[str, Any], labels: Tensor) -> bool:
    """Whether nothing but tokens, mask and labels has one value per token."""
    mask = batch.get("attention_mask")
    by_token = [v for v in _inputs_beside(batch, labels) if v.shape[1] == labels.shape[1]]
    return not by_token and (mask is None or mask.shape == labels.shape)


def _before_labels(values: Tensor, supervised: Tensor) -> Tensor:
    """The rows of ``values [B, T, D]`` at the positions that predict a ``supervised [B, T-1]`` label, ``[N, D]``."""
    # Counted from the end: prompt tuning puts positions of its own before the batch's. The last one predicts no label.
    return values[:, -supervised.shape[1] - 1 : -1][supervised]


@contextmanager
def _gathering(head: nn.Module | None, supervised: Tensor, gathered: list[Tensor]) -> Iterator[None]:
    """Let ``head`` see only the hidden states that predict a ``supervised [B, T-1]`` label."""

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        # `None` leaves the head's input alone: this one does not have a hidden state for each of the T positions.
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[1] <= supervised.shape[1]:
            return None
        gathered.append(_before_labels(hidden, supervised))
        return gathered[-1], *args[1:]

    handle = None if head is None else head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
