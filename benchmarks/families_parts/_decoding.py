"""Greedy decoding by ours, compared with a loop over whole forward passes without padding or cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from families_parts._batches import Batch, alone, batch
from families_parts._forward import forward
from lightning_unlearn.readouts import greedy_answers

QUESTIONS = batch(11, [8, 25, 11, 15], prompt=0)
"""Of each row all but the last three tokens are the question."""
for row, seen in enumerate(QUESTIONS["attention_mask"]):
    QUESTIONS["labels"][row, : int(seen.sum()) - 3] = -100
END, LENGTH = 2, 6


def decoded(network: nn.Module) -> dict[str, bool]:
    """Whether answers with padding, and without, are those of the loop."""
    rows = alone(QUESTIONS)
    loop = [by_hand(network, row) for row in rows]
    single = [_ours(network, row)[0] for row in rows]
    return {"padded": _ours(network, QUESTIONS) == loop, "alone": single == loop}


def by_hand(network: nn.Module, row: Batch) -> list[int]:
    """The most likely token, again and again, each time from all tokens."""
    tokens: Tensor = row["input_ids"][row["labels"] == -100][None]
    answer: list[int] = []
    for _ in range(LENGTH):
        with torch.no_grad():
            logits = forward(network, input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        token = int(logits[0, -1].argmax())
        if token == END:
            break
        answer.append(token)
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    return answer


def _ours(network: nn.Module, asked: Batch) -> list[list[int]]:
    return [answer.tolist() for answer in greedy_answers(network, asked, end=[END], max_new_tokens=LENGTH)]
