from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_unlearn.models.layers import base_model

_COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")


def router_loss(network: nn.Module, output: Any) -> Tensor | None:
    r"""What a mixture of experts adds to its own loss, so that its router uses all experts: :math:`c \cdot L_\mathrm{aux}`.

    Hugging Face computes it where ``config.output_router_logits`` is set, over the tokens that the attention mask shows.

    Args:
        network: The network.
        output: What it gave.

    Returns:
        ``[]``; ``None`` if it adds nothing.

    Raises:
        ValueError: If there is such a loss, and its weight cannot be found.
    """
    value = getattr(output, "aux_loss", None)
    if not isinstance(value, Tensor):
        return None
    base: Any = base_model(network)
    config: Any = getattr(base, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    places = ((place, name) for place in (base, config, text) for name in _COEFFICIENTS)
    weight = next((w for place, name in places if (w := getattr(place, name, None)) is not None), None)
    if weight is None:
        raise ValueError(
            "A network that gives a router loss should have its weight as `router_aux_loss_coef`, or in its configuration. "
            f"Found none in `{type(base).__name__}`. Set it, or `config.output_router_logits = False`."
        )
    return float(weight) * value


def adds_router_loss(network: nn.Module) -> bool:
    """Whether ``network`` is told to give its router loss."""
    config: Any = getattr(base_model(network), "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return any(bool(getattr(place, "output_router_logits", False)) for place in (config, text))
