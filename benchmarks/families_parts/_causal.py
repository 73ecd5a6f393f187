from __future__ import annotations

import torch
from torch import Tensor, nn

from families_parts._forward import forward


def looks_ahead(network: nn.Module) -> bool:
    """Whether later tokens change earlier predictions, or whether there are later ones."""
    tokens = torch.randint(3, 58, (1, 20), generator=torch.Generator().manual_seed(1))
    others = torch.cat([tokens[:, :12], tokens[:, 12:].flip(1)], dim=1)
    first, *rest = (_logits(network, x)[:, :12] for x in (tokens, others, tokens[:, :12]))
    return any(bool((one - first).abs().max() > 1e-3 * first.abs().max()) for one in rest)


def own_loss_is_shifted(network: nn.Module) -> bool:
    """Whether the loss that the network computes itself predicts the next token, and not the one it was given."""
    tokens = torch.randint(3, 58, (1, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = forward(network, input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens)
    next_token = torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), tokens[0, 1:])
    return bool((out.loss - next_token).abs() < 1e-3)


def _logits(network: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = forward(network, input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return logits
