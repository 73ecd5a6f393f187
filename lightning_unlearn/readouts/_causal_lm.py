from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Exchange, Readout, content_key
from lightning_unlearn.readouts._gathered import Read, read_at
from lightning_unlearn.readouts._language_model import find_causal, inputs_of, refuse_not_causal
from lightning_unlearn.readouts._padding import inside, mask_of, padded_behind, present_in
from lightning_unlearn.readouts._row_contents import beside, row_contents
from lightning_unlearn.readouts._splice import cut_rows, splice


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

    **Padding changes nothing.** Rows that are padded on the left are moved, so that positions, states and distances are
    those of the row alone; hidden tokens may have any number. Frequencies that depend on the length of the input (longrope,
    dynamic NTK) are those of the longest row of the batch, as in Hugging Face's own training.

    **Mixtures of experts** whose configuration has ``output_router_logits`` also give their router loss, for
    :func:`~lightning_unlearn.prediction.with_router_loss`.

    A compiled network runs eagerly here if its head is compiled too, since a compiled head ignores hooks. If only the
    decoder is compiled, by ``network.model.compile()``, it runs compiled.

    Args:
        keep_features: Keep the gathered hidden states as ``Prediction.features``.
        logits_at_most: Where a loss is computed of more logits than these (``N`` times the vocabulary), they are never
            held together: loss and gradient go through them in chunks of rows. ``None`` for 2^24 on the CPU and 2^26
            elsewhere, 64 and 256 MiB in float32. An objective that asks for ``Prediction.logits`` gets all of them, and
            so do metrics. A head that is more than a linear layer (adapted, in few bits, sharded, with hooks) is called,
            and gives all of them as well. Objectives that are means of rows or examples cost no more by this; others,
            with a trained head (:class:`JensUn`, labels at random), one matrix product of the head in four.

    Raises:
        ValueError: If there is no causal language model, it looks ahead, or the batch lacks ``input_ids`` or ``labels``.

    References:
        Label convention: `Hugging Face, causal language modelling
        <https://huggingface.co/docs/transformers/tasks/language_modeling>`_.
    """

    def __init__(self, keep_features: bool = False, logits_at_most: int | None = None) -> None:
        if logits_at_most is not None:
            check_whole("logits_at_most", logits_at_most)
        self.keep_features = keep_features
        self._logits_at_most = logits_at_most  # not shown: it changes no value, and a cache need not know it

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The first PEFT or Hugging Face model inside ``module``, outermost first."""
        return find_causal(module)

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        refuse_not_causal(network)
        batch = padded_behind(batch, _labels(batch))
        labels = _labels(batch)
        supervised = _supervised(batch, labels)
        read = self._read(network, batch, F.pad(supervised, (0, 1)))  # the last position predicts no label
        example = supervised.nonzero()[:, 0]
        # `labels[:, 1:]`: the label of a position is the next token, and `supervised` is shifted in the same way.
        targets = labels[:, 1:][supervised].long()
        return Prediction(read.logits, targets, example, len(labels), read.features, read.router_loss)

    def _read(self, network: nn.Module, batch: Any, chosen: Tensor) -> Read:
        """What ``network`` gives at the ``chosen [B, T]`` positions."""
        inputs, at_most = inputs_of(network, batch), self._logits_at_most
        return read_at(network, inputs, chosen, keep_features=self.keep_features, logits_at_most=at_most)

    @override
    def present(self, batch: Any) -> Tensor | None:
        """The mask's positions, where the network sees them; without a mask, those up to the last label of each row."""
        seen = padded_behind(batch, _labels(batch))
        return present_in(seen, seen["labels"])

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of tokens and labels, and of all other inputs: pixels, sound, types of tokens."""
        labels = _labels(batch)
        present = present_in(batch, labels)
        # Padding is cut off first: the same example has the same key in a wider batch.
        texts = [
            [v[row][present[row].to(v.device)] for v in (batch["input_ids"], labels)] for row in range(len(labels))
        ]
        contents = row_contents(batch, labels, present)
        return [content_key(*text, *others) for text, others in zip(texts, contents, strict=True)]

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
    mask = mask_of(batch, labels)
    # The first label is never predicted, since no position stands before it.
    supervised = labels[:, 1:] != IGNORED
    # With padding on the left, the position before the first token is padding: it has read nothing to predict from.
    return supervised if mask is None else supervised & inside(mask)[:, :-1]


def _asked(batch: Mapping[str, Any], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens stand before the first supervised one, and which are supervised, ``[B, T]`` bool each."""
    mask = mask_of(batch, labels)
    # Tokens that the mask hides inside a row still belong to the question; `splice` keeps them hidden.
    text = present_in(batch, labels) if mask is None else inside(mask)
    supervised = F.pad(_supervised(batch, labels), (1, 0))
    return text & (supervised.int().cumsum(1) == 0), supervised


def _is_spliceable(batch: Mapping[str, Any], labels: Tensor) -> bool:
    """Whether nothing but tokens, mask and labels has one value per token."""
    mask = batch.get("attention_mask")
    by_token = [v for v in beside(batch, labels) if v.shape[1] == labels.shape[1]]
    return not by_token and (mask is None or mask.shape == labels.shape)
