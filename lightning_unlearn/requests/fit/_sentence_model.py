from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import Similarity
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models import load_tokenizer

_AT_ONCE = 32


class SentenceModel(Similarity):
    """By what a sentence model makes of them: the cosine of the mean of its last hidden states.

    Args:
        name: A folder or a hub id of a model of transformers, such as
            ``"princeton-nlp/sup-simcse-bert-base-uncased"``, which was published with FIT (there the pooler's output).
        max_length: Tokens of a text; longer ones lose their end.

    Raises:
        OSError: When it is first used, if there is no such model.
    """

    def __init__(self, name: str, max_length: int = 128) -> None:
        check_whole("max_length", max_length)
        self.name, self.max_length = name, max_length
        self._loaded: tuple[Any, Any] | None = None

    @override
    def __call__(self, texts: Sequence[str], targets: Sequence[str]) -> Tensor:
        if not texts or not targets:
            return torch.zeros(len(texts), len(targets))
        return self._embedded(texts) @ self._embedded(targets).T

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        """``[texts, width]``, each of length 1."""
        found = []
        for start in range(0, len(texts), _AT_ONCE):
            tokenizer, model = self._model()
            batch = tokenizer(
                list(texts[start : start + _AT_ONCE]),
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            with torch.no_grad():
                states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            real = batch["attention_mask"][..., None].to(states.dtype)
            found.append((states * real).sum(1) / real.sum(1).clamp_min(1))
        return torch.nn.functional.normalize(torch.cat(found), dim=-1)

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModel  # here, since it takes longer than all of this package

            self._loaded = (
                load_tokenizer(self.name),
                AutoModel.from_pretrained(self.name, trust_remote_code=False).eval(),
            )
        return self._loaded

    def __repr__(self) -> str:
        return f"SentenceModel({self.name!r}, max_length={self.max_length})"
