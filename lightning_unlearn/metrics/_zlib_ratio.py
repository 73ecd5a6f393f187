from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.prediction import Prediction


class ZlibRatio(KnowledgeMetric):
    r"""Negative log-likelihood per token of the right answer, over the bytes that zlib compresses it to. Lower: known.

    Repetitive text is likely under every network. Dividing by its length when compressed takes that out.

    A prediction holds tokens, not text. With ``text_of`` the text is compressed, as in the paper; without, the token ids,
    in four bytes each. The two need not rank examples alike: for published numbers give ``text_of``.

    Args:
        text_of: From token ids to text, such as ``tokenizer.decode``.

    Example:
        >>> metric = ZlibRatio(text_of=lambda tokens: "abc")
        >>> metric.update(Prediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 0]), 1))
        >>> round(metric.compute().item(), 4)  # log(4) / 11 bytes
        0.126

    References:
        Carlini et al., `Extracting Training Data from Large Language Models <https://arxiv.org/abs/2012.07805>`_, 2021,
        section 5.1.
    """

    in_words: ClassVar[str] = (
        "How surprised the model is by the right answer, compared with how much the answer can be compressed; lower means "
        "it knows more."
    )
    higher_means_known: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    def __init__(self, text_of: Callable[[list[int]], str] | None = None) -> None:
        super().__init__()
        self.text_of = text_of

    @override
    def scores_of(self, prediction: Prediction) -> Tensor:
        nll = prediction.example_nll().double() / prediction.rows_per_example().clamp_min(1)
        labels, example = prediction.labels.cpu(), prediction.example.cpu()
        sizes = [self._compressed(labels[example == number]) for number in range(prediction.batch_size)]
        return nll / torch.tensor(sizes, dtype=torch.float64, device=nll.device)

    def _compressed(self, tokens: Tensor) -> int:
        if self.text_of is None:
            return len(zlib.compress(tokens.numpy().astype("<i4").tobytes()))
        return len(zlib.compress(self.text_of(tokens.tolist()).encode("utf-8")))
