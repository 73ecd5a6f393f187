from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from lightning_unlearn.models.layers import base_model
from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Exchange, Readout, content_key
from lightning_unlearn.readouts._gathered import read_at
from lightning_unlearn.readouts._language_model import inputs_of, is_encoder_decoder
from lightning_unlearn.readouts._padding import mask_of
from lightning_unlearn.readouts._router import adds_router_loss
from lightning_unlearn.readouts._row_contents import row_contents

_OF_DECODER = {"decoder_input_ids", "decoder_attention_mask"}


class EncoderDecoderReadout(Readout):
    """Run a Hugging Face encoder-decoder (T5, BART, Whisper), bare or wrapped by PEFT, and read it at supervised positions.

    A batch is a mapping with ``labels [B, T]``, -100 where not supervised, and what the encoder takes: ``input_ids`` and
    ``attention_mask``, or features of sound or images. Labels are what the decoder says, from its first token on: they are
    not shifted here. The model makes ``decoder_input_ids`` of them as in its own training, unless the batch has some.

    As with :class:`CausalLMReadout`, only positions with a label reach the output head, if the model has a
    method that makes ``decoder_input_ids`` (BlenderBot, M2M100 and Whisper have none).

    Args:
        keep_features: Keep the gathered hidden states of the decoder as ``Prediction.features``.

    Raises:
        ValueError: If there is no encoder-decoder, or the batch has no ``labels``.
        NotImplementedError: If the network adds a router loss to its own, which it computes together with it only.

    Example:
        >>> import torch
        >>> from transformers import T5Config, T5ForConditionalGeneration
        >>> sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        >>> config = T5Config(vocab_size=20, decoder_start_token_id=0, **sizes)
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[8, 1]])}
        >>> EncoderDecoderReadout()(T5ForConditionalGeneration(config), batch).labels.tolist()
        [8, 1]
    """

    def __init__(self, keep_features: bool = False) -> None:
        self.keep_features = keep_features

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The first encoder-decoder inside ``module``, outermost first."""
        for candidate in module.modules():
            if is_encoder_decoder(candidate):
                if adds_router_loss(candidate):
                    raise NotImplementedError(
                        "An encoder-decoder should not add a router loss to its own, which would be left out here. Found "
                        f"`output_router_logits` in `{type(base_model(candidate)).__name__}`. Set "
                        "`config.output_router_logits = False`, or use `TrainingStepReadout()`."
                    )
                return candidate
        raise ValueError(
            "`EncoderDecoderReadout` should find a Hugging Face encoder-decoder inside the module. Found none in "
            f"`{type(module).__name__}`. A decoder alone wants `PackedCausalLMReadout()`."
        )

    @override
    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        labels = _labels(batch)
        supervised = labels != IGNORED
        logits, features = self._read(network, batch, supervised)
        return Prediction(logits, labels[supervised].long(), supervised.nonzero()[:, 0], len(labels), features)

    def _read(self, network: nn.Module, batch: Any, supervised: Tensor) -> tuple[Tensor, Tensor | None]:
        inputs, labels = inputs_of(network, batch), batch["labels"]
        make: Any = getattr(base_model(network), "prepare_decoder_input_ids_from_labels", None)
        if "decoder_input_ids" not in inputs and make is not None:
            inputs["decoder_input_ids"] = make(labels=labels)
        if "decoder_input_ids" in inputs:
            read = read_at(network, inputs, supervised, keep_features=self.keep_features)
            return read.logits, read.features
        if self.keep_features:
            raise ValueError(
                "`keep_features=True` should find a model that makes `decoder_input_ids` of labels by a method. Found "
                f"`{type(base_model(network)).__name__}`. Put `decoder_input_ids` in the batch, or leave it out."
            )
        # It makes them in its forward pass, where it computes its own loss, too: of all logits.
        return network(**inputs, labels=labels).logits[supervised], None

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of labels, of tokens without padding, and of all other inputs."""
        labels = _labels(batch)
        supervised = labels != IGNORED
        contents = row_contents(batch, labels, supervised)
        return [
            content_key(*_question(batch, row), labels[row][supervised[row]], *contents[row])
            for row in range(len(labels))
        ]

    @override
    def present(self, batch: Any) -> Tensor | None:
        """The encoder's mask. ``None`` where the decoder's rows are as long, so that its layers would be taken for those."""
        if not isinstance(batch, Mapping) or not isinstance(ids := batch.get("input_ids"), Tensor):
            return None
        mask, said = mask_of(batch, ids), batch.get("decoder_input_ids", _labels(batch))
        return mask if mask is not None and said.shape[1] < mask.shape[1] else None

    @override
    def exchanges(self, batch: Any) -> list[Exchange] | None:
        """The encoder's tokens, and the supervised ones. ``None`` if there are no tokens, or decoder inputs of the batch."""
        labels = _labels(batch)
        if "input_ids" not in batch or _OF_DECODER & set(batch):
            return None
        return [Exchange(_question(batch, row)[0], labels[row][labels[row] != IGNORED]) for row in range(len(labels))]

    @override
    def with_answers(self, batch: Any, answers: Sequence[Tensor]) -> dict[str, Any]:
        """The same questions, with new labels, padded on the right."""
        labels = _labels(batch)
        # One column more than the longest, since labels of no width are none.
        padded = pad_sequence([*(a.to(labels) for a in answers), labels[0, :1]], True, IGNORED)[:-1]
        return {**batch, "labels": padded}


def _labels(batch: Any) -> Tensor:
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor) or labels.dim() != 2:
        found = f"a mapping with keys {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise ValueError(
            f"A batch should be a mapping with `labels`, [B, T], -100 where not supervised. Found {found}. Return it from "
            "your own `collate_fn`; `DataCollatorForSeq2Seq` of transformers makes such batches."
        )
    return labels


def _question(batch: Mapping[str, Any], row: int) -> list[Tensor]:
    """The encoder's tokens of a row without padding; none if it reads no tokens."""
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor):
        return []
    mask = mask_of(batch, ids)
    return [ids[row] if mask is None else ids[row][mask[row].to(ids.device)]]
