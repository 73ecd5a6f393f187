from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_unlearn.models.layers._compiled import eager_if_compiled
from lightning_unlearn.models.layers._head import base_model, input_embedding
from lightning_unlearn.models.layers._low_bit import is_low_bit
from lightning_unlearn.runtime import is_sharded, unnoticed

_FULL = (torch.float32, torch.float64)
_LENGTH = 24  # some attention sees everything in short rows

# By network, and weak: the answer is one of the architecture, and a pass is saved wherever it is asked again.
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def refuse_looking_ahead(network: nn.Module) -> None:
    r"""Refuse a language model whose predictions depend on tokens that come later, or on how many come.

    Such a model is given the answer together with the question: its loss says nothing of what it knows. Asked of the
    network itself, whatever its name and configuration: of two sequences that differ in their second half, and of one
    without it, the predictions in the first half have to be equal, up to twice the change between equal sequences, and
    rounding.

    Two forward passes over up to 24 tokens, once per network, without hooks and without a trace. A network
    that is sharded (a pass would be collective), on the meta device, inside a compiled graph, or that cannot run on tokens
    alone is not asked.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter.

    Raises:
        ValueError: If it looks ahead.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> refuse_looking_ahead(TinyCausalLM(hidden_size=32))
    """
    if looks_ahead(network):
        raise ValueError(
            "A causal language model should predict each token from those before it. Found "
            f"`{type(base_model(network)).__name__}`, whose predictions change with later tokens, or with their number: it "
            "reads the answer while it predicts it. Load it as a decoder (`is_decoder=True`, `is_causal=True`) if it is "
            "one. Otherwise train it in a LightningModule of yours, with `TrainingStepReadout()`: your own loss is what "
            "is forgotten."
        )


def looks_ahead(network: nn.Module) -> bool:
    """Whether predictions of ``network`` change with later tokens; ``False`` where it cannot be asked."""
    base = base_model(network)
    if base not in _known:
        answer = None if _cannot_be_asked(network) else _asked(network)
        if answer is None:
            return False  # not remembered: it may be asked when it is in place
        _known[base] = answer
    return _known[base]


def _cannot_be_asked(network: nn.Module) -> bool:
    elsewhere = any(p.is_meta for p in network.parameters())
    return elsewhere or torch.compiler.is_compiling() or is_sharded(network)


def _asked(network: nn.Module) -> bool | None:
    embedding: Any = input_embedding(base_model(network))
    vocabulary = getattr(embedding, "num_embeddings", 0)
    context = getattr(getattr(base_model(network), "config", None), "max_position_embeddings", None)
    length = min(_LENGTH, context) if isinstance(context, int) and context > 0 else _LENGTH
    if vocabulary < 4 or length < 2:
        return None
    try:
        with (
            unnoticed(network),
            eager_if_compiled(network),
            torch.autocast(embedding.weight.device.type, enabled=False),
        ):
            tokens = _sequences(vocabulary, length).to(embedding.weight.device)
            logits, of_half = network(tokens).logits, network(tokens[:1, : length // 2]).logits
    except Exception:  # it may need other inputs, a device, a precision: of any kind
        return None
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[1] < length:
        return None
    # Where there are more predictions than tokens, those of soft prompts come first.
    halves = torch.cat([logits[:, -length:][:, : length // 2], of_half[:, -(length // 2) :]]).float()
    size = float(halves.square().mean().sqrt())
    changed, unchanged, shortened = (float((halves[0] - row).square().mean().sqrt()) for row in halves[1:])
    return changed > 2 * unchanged + _rounding(network) * size or shortened > 2 * unchanged + _of_length(network) * size


def _sequences(vocabulary: int, length: int) -> Tensor:
    """Two sequences that differ in their second half, and the first one again, ``[3, T]``."""
    drawn = torch.randint(vocabulary // 4, vocabulary, (length,), generator=torch.Generator().manual_seed(0))
    other, half, least = drawn.clone(), length // 2, vocabulary // 4
    other[half:] = (drawn[half:] - least + 1).remainder(vocabulary - least) + least
    return torch.stack([drawn, other, drawn])


def _rounding(network: nn.Module) -> float:
    """How far equal predictions may be apart, as a share: a quarter of a digit in half precision, eight in float32."""
    # Mixtures compute each expert's tokens together: others in the batch may change how sums are rounded.
    coarsest = max((torch.finfo(p.dtype).eps for p in network.parameters() if p.is_floating_point()), default=0.0)
    return max(8 * torch.finfo(torch.float32).eps, coarsest / 4)


def _of_length(network: nn.Module) -> float:
    """The same for predictions in rows of another length, whose sums are rounded otherwise."""
    # Layers in few bits round what they are given, too; kernels of devices, and of lower settings, round float32.
    plain = all(p.dtype in _FULL and p.device.type == "cpu" and not is_low_bit(p) for p in network.parameters())
    is_exact = plain and torch.get_float32_matmul_precision() == "highest"
    return 64 * torch.finfo(torch.float32).eps if is_exact else 0.05
