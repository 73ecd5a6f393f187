from __future__ import annotations

import torch
from torch import nn

from families_parts._forward import forward


def looks_ahead(network: nn.Module) -> bool:
    """Whether later tokens change earlier predictions."""
    tokens = torch.randint(3, 58, (1, 20), generator=torch.Generator().manual_seed(1))
    later = tokens.clone()
    later[:, 12:] = tokens[:, 12:].flip(1)
    with torch.no_grad():
        one, two = (
            forward(network, input_ids=x, attention_mask=torch.ones_like(x)).logits[:, :12] for x in (tokens, later)
        )
    return bool((one - two).abs().max() > 1e-3 * one.abs().max())


def own_loss_is_shifted(network: nn.Module) -> bool:
    """Whether the loss that the network computes itself predicts the next token, and not the one it was given."""
    tokens = torch.randint(3, 58, (1, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = forward(network, input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens)
    next_token = torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), tokens[0, 1:])
    return bool((out.loss - next_token).abs() < 1e-3)
