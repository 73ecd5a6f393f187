from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data import Encoding, Records
from lightning_unlearn.models.layers import input_embedding
from lightning_unlearn.readouts import choose_readout
from lightning_unlearn.requests.fit._losses import batches
from lightning_unlearn.runtime import eval_mode


def embedding_gradient(network: nn.Module, records: Records, encoding: Encoding) -> float:
    r"""How strongly the loss of a request depends on its tokens: its importance in FIT.

    .. math:: g = \Bigl\| \frac{\partial}{\partial E} \frac{1}{N} \sum_{n=1}^{N} -\log p_n(y_n) \Bigr\|_F

    for the embedded tokens :math:`E` of all rows, and the :math:`N` supervised ones. Of the embedded tokens and not of the
    embedding's weights: those of a tied head would bring the head's own gradient in. Gradients of parameters stay as they
    are.

    :class:`~lightning_unlearn.objectives.ImportanceScheduled` takes the importance of each example from its logits alone.

    Args:
        network: A language model.
        records: The rows of the request.
        encoding: How rows become tokens.

    Raises:
        ValueError: If the network has no input embedding.

    References:
        Xu et al., `FIT <https://arxiv.org/abs/2601.21682>`_, 2026, and its code.
    """
    embedding = input_embedding(network)
    if embedding is None:
        raise ValueError(
            f"`embedding_gradient` should find an input embedding. Found none in `{type(network).__name__}`. Give it the "
            "method `get_input_embeddings`, as models of transformers have."
        )
    embedded: list[Tensor] = []

    def apart(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    # Not packed: a prefix that rows share would be embedded once, with the sum of their gradients.
    readout, squares, tokens = choose_readout(network).unpacked(), 0.0, 0
    handle = embedding.register_forward_hook(apart)
    try:
        for batch in batches(records, encoding):
            embedded.clear()
            with eval_mode(network), torch.enable_grad():
                prediction: Any = readout(network, batch)
                gradients = torch.autograd.grad(prediction.token_nll().sum(), list(embedded))
            squares += sum(float(g.double().square().sum()) for g in gradients)
            tokens += len(prediction.labels)
    finally:
        handle.remove()
    return float(squares**0.5 / max(tokens, 1))
