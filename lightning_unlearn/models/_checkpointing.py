from torch import nn


def checkpoint_activations(network: nn.Module) -> None:
    """Let a transformers model, with an adapter or without, compute its layers' activations again in the backward pass.

    It is non-re-entrant, so the inputs of a layer need no gradient. The re-entrant kind does: for it transformers puts a
    hook on the embeddings, which is removed here. In evaluation mode transformers switches checkpointing off by itself.

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
