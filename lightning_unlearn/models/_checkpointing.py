from torch import nn


def checkpoint_activations(network: nn.Module) -> None:
    """Let a transformers model, with an adapter or without, compute its layers' activations again in the backward pass.

    Non-re-entrant, so gradients need not flow in through the embeddings: the hook for that, which transformers puts on
    them, is taken off again. In evaluation mode nothing is kept anyway, and transformers switches it off by itself.

    Raises:
        ValueError: If the architecture cannot do it.
    """
    # Its name before transformers 5.
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})  # type: ignore[operator]  # methods of every transformers model
    except ValueError as error:
        raise ValueError(
            f"`activation_checkpointing` should be for architectures that support it. Found: {error} Leave it out."
        ) from error
    if hasattr(network, "_require_grads_hook"):
        network.disable_input_require_grads()  # type: ignore[operator]
