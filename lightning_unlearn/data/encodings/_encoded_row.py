from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_unlearn.data.encodings._padding import Batch


@dataclass(frozen=True)
class EncodedRow:
    """One row as tokens, and what became of it on the way.

    Args:
        ids: Token ids, at most ``max_length`` of them.
        labels: The same where they are supervised, -100 elsewhere.
        length: How many tokens there would be without ``max_length``.
        cut: How many supervised tokens ``max_length`` has cut off.
        altered: What of question or answer is not in the tokens, for a message.
        open_end: Whether the chat template ends the answer's turn with nothing.
    """

    ids: list[int]
    labels: list[int]
    length: int
    cut: int = 0
    altered: str | None = None
    open_end: bool = False

    def tensors(self) -> Batch:
        """``input_ids [T]`` and ``labels [T]``, int64."""
        return {"input_ids": torch.tensor(self.ids), "labels": torch.tensor(self.labels)}
