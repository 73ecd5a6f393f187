from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.encodings import Batch
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.prediction import IGNORED


@dataclass(frozen=True)
class Document:
    """A text.

    Args:
        text: All of it.
        entity: Its name, or whom it is about; windows of one entity are known or forgotten together.
        source: Where it was read, for messages.
    """

    text: str
    entity: str
    source: str


class TextWindows:
    r"""How texts become windows of tokens, each no longer than a network reads.

    A text is tokenised as a whole, and window :math:`k` holds the tokens from :math:`k s` to :math:`k s + w`, for a stride
    :math:`s` and a width :math:`w`, until the text ends. In each window the tokens that no earlier one held are supervised,
    so each token is supervised once; but nothing predicts the first token of a window.

    Where the tokenizer begins a text with its beginning-of-text token, as Llama's does, every window begins with it, as in
    MUSE; :math:`w` is then ``max_length - 1``, and no token of the text stays unsupervised. An end-of-text token is never
    added: the end of a window is none.

    Args:
        tokenizer: As in :class:`Encoding`.
        max_length: Tokens per window.
        stride: Tokens from the start of a window to that of the next. Fewer than fit give each window the last tokens of
            the one before as context. Defaults to as many as fit: windows do not overlap.
        shortest: The last window of a text is left out if it has fewer tokens; with ``shortest=max_length``, all windows are
            full. By default it stays if anything in it is predicted.

    Raises:
        ValueError: If ``stride`` skips tokens.

    Example:
        >>> windows = TextWindows("bundled", max_length=5, stride=3)
        >>> for window in windows("Ada works in the po"):
        ...     print([windows.tokenizer.decode(one) for one in window["input_ids"]], window["labels"].ne(IGNORED).tolist())
        ['A', 'da', ' work', 's', ' in'] [False, True, True, True, True]
        ['s', ' in', ' the', ' p', 'o'] [False, False, True, True, True]

    References:
        Shi et al., `MUSE <https://arxiv.org/abs/2407.06460>`_, 2024, whose windows do not overlap; its code fills up the
        last of a text with the beginning of the text, which we do not. For overlapping windows, the guide of
        ``transformers`` to the perplexity of models of fixed length.
    """

    def __init__(
        self,
        tokenizer: str | PreTrainedTokenizerBase,
        *,
        max_length: int = 512,
        stride: int | None = None,
        shortest: int = 2,
    ) -> None:
        check_whole("max_length", max_length, least=2)
        check_whole("shortest", shortest, least=2, why="The first token of a window is not predicted.")
        if stride is not None:
            check_whole("stride", stride)
        if shortest > max_length:
            raise ValueError(
                f"`shortest` should be at most `max_length`, or no window is left. Found `shortest = {shortest}` and "
                f"`max_length = {max_length}`."
            )
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.stride = stride
        self.shortest = shortest
        if stride is not None and stride > max_length:
            self._refuse_gaps(max_length)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when it is first needed."""
        return load_tokenizer(self._tokenizer) if isinstance(self._tokenizer, str) else self._tokenizer

    def __call__(self, text: str) -> list[Batch]:
        """Cut one text.

        Returns:
            The windows in order, each ``input_ids [T]`` and ``labels [T]``, int64, the latter -100 where nothing is
            supervised; none for a text that is too short.
        """
        # Quiet: the tokenizer would warn that a text is longer than the network reads.
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return list(self._cut(ids))

    @cached_property
    def _beginning(self) -> list[int]:
        """The token with which the tokenizer begins texts, if there is one."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _cut(self, ids: list[int]) -> Iterator[Batch]:
        begin = self._beginning
        width = self.max_length - len(begin)
        stride = width if self.stride is None else self.stride
        if stride > width:
            self._refuse_gaps(width)
        done = 0  # tokens that a window has held
        for start in range(0, len(ids), stride):
            window = [*begin, *ids[start : start + width]]
            # With a beginning-of-text token the first of the text is predicted, too; without, the first of a window is not.
            known = max(len(begin) + done - start, 1)
            if len(window) >= self.shortest and len(window) > known:
                labels = [IGNORED] * known + window[known:]
                yield {"input_ids": torch.tensor(window), "labels": torch.tensor(labels)}
            done = start + width
            if done >= len(ids):
                return

    def _refuse_gaps(self, width: int) -> None:
        raise ValueError(
            f"`stride` should be at most the {width} tokens of a text that a window holds, or tokens between windows are "
            f"skipped. Found `stride = {self.stride}`."
        )
