"""Gradients that arrive with the other sign."""

from torch import Tensor


def reverse_gradient(states: Tensor, strength: float) -> Tensor:
    r"""The same values; what comes back through them is multiplied by :math:`-\text{strength}`.

    Example:
        >>> import torch
        >>> states = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> reverse_gradient(states, 0.5).sum().backward()
        >>> states.grad
        tensor([-0.5000, -0.5000])

    References:
        Ganin and Lempitsky, `Unsupervised Domain Adaptation by Backpropagation <https://arxiv.org/abs/1409.7495>`_, 2015.
    """
    fixed = states.detach()
    # The bracket is exactly zero, and so leaves the values alone.
    return fixed - strength * (states - fixed)
