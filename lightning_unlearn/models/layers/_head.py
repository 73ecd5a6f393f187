from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def base_model(network: nn.Module) -> nn.Module:
    """The model itself, without the wrappers of PEFT and ``torch.compile``.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> base_model(network) is network
        True
    """
    network = getattr(network, "_orig_mod", network)
    if hasattr(network, "peft_config") and hasattr(network, "get_base_model"):
        network = network.get_base_model()  # type: ignore[operator]  # PeftModel's
    return getattr(network, "_orig_mod", network)  # PEFT may also stand around a compiled model


def output_head(network: nn.Module) -> nn.Module | None:
    """The module that turns hidden states into logits, with its adapter; ``None`` if the network has no such method."""
    return _asked(network, "get_output_embeddings")


def input_embedding(network: nn.Module) -> nn.Module | None:
    """The module that turns tokens into hidden states, with its adapter; ``None`` if the network has no such method."""
    return _asked(network, "get_input_embeddings")


def is_tied(network: nn.Module) -> bool:
    """Whether the output head and the input embedding compute with the same parameter.

    They still do if adapters are around them. A trained copy of the head (``modules_to_save``) is a parameter of its own.
    """
    head, embedding = (_plain(module) for module in (output_head(network), input_embedding(network)))
    weight = getattr(head, "weight", None)
    return weight is not None and weight is getattr(embedding, "weight", None)


def output_heads(network: nn.Module) -> Iterator[nn.Module]:
    """All modules of the output heads of all models inside ``network``, and of a module called ``lm_head``.

    If a model says which part of its ``lm_head`` is the head, the rest of it is no head: RoBERTa has a dense layer there.
    """
    heads = [head for module in network.modules() if (head := output_head(module)) is not None]
    heads += [
        module
        for name, module in network.named_modules()
        if name.split(".")[-1] == "lm_head" and not any(head in heads for head in module.modules())
    ]
    for head in heads:
        yield from head.modules()


def _asked(network: nn.Module, method: str) -> nn.Module | None:
    try:
        module = getattr(network, method)()  # of every Hugging Face model
    except (AttributeError, NotImplementedError):
        return None
    return module if isinstance(module, nn.Module) else None


def _plain(module: Any) -> Any:
    """The layer whose weight is used, inside wrappers of ``torch.compile`` and PEFT."""
    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            saved = {} if module.disable_adapters else module.modules_to_save
            active = [key for key in module.active_adapters if key in saved]
            module = saved[active[0]] if active else module.original_module
        elif hasattr(module, "base_layer"):
            module = module.base_layer
        else:
            return module
