from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.functional.settings import check_not_negative, check_positive, check_whole
from lightning_unlearn.objectives.encoders._sae import SAE


def train_sae(
    states: Tensor,
    size: int,
    path: str | Path,
    *,
    sparsity: float = 1.0,
    steps: int = 1000,
    lr: float = 3e-3,
    batch_size: int = 256,
    seed: int = 0,
) -> SAE:
    r"""Train a sparse autoencoder on hidden states of one layer, and save it at ``path``.

    .. math:: \mathbb{E} \, \frac{1}{D} \| x - \hat x \|^2 + \text{sparsity} \cdot \mathbb{E} \, \frac{1}{D} \| z \|_1,
        \qquad x = (h - m) / s

    with Adam on batches that are drawn by ``seed``. :math:`m` is the mean of the states, :math:`s` their root mean square
    distance from it per dimension. The global random numbers are left alone.

    Args:
        states: ``[N, D]``, from the network before it forgets.
        size: Number of latents, usually several times ``D``.
        path: Where the ``.safetensors`` file goes.
        sparsity: Weight of the penalty, not negative.
        steps: Number of Adam's steps.
        lr: Step size.
        batch_size: States per step.
        seed: Of the start values and of the batches.

    Example:
        >>> import tempfile
        >>> states = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> sae = train_sae(states, 8, f"{tempfile.mkdtemp()}/sae.safetensors", steps=5)
        >>> sae(states).shape, sae.decode(sae(states)).shape
        (torch.Size([64, 8]), torch.Size([64, 4]))
    """
    for name, whole in {"size": size, "steps": steps, "batch_size": batch_size}.items():
        check_whole(name, whole)
    check_not_negative("sparsity", sparsity)
    check_positive("lr", lr)
    generator = torch.Generator(states.device).manual_seed(seed)
    states = states.detach().float()
    mean = states.mean(0)
    scale = (states - mean).square().mean().sqrt()
    inputs = (states - mean) / scale
    weights = _start(inputs.shape[1], size, generator)
    optimizer = torch.optim.Adam(weights.values(), lr)
    with torch.enable_grad():
        for _ in range(steps):
            drawn = torch.randint(len(inputs), (batch_size,), generator=generator, device=inputs.device)
            optimizer.zero_grad()
            _loss(inputs[drawn], weights, sparsity).backward()
            optimizer.step()
            _unit_rows_(weights["decoder"])
    made = {
        name: tensor.detach().cpu().contiguous() for name, tensor in {**weights, "mean": mean, "scale": scale}.items()
    }
    save_file(made, str(path))
    return SAE(path)


def _start(width: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    decoder = torch.randn(size, width, generator=generator, device=generator.device, dtype=torch.float32)
    _unit_rows_(decoder)
    zeros = {"bias": decoder.new_zeros(size), "offset": decoder.new_zeros(width)}
    weights = {"encoder": decoder.T.clone(), "decoder": decoder, **zeros}
    return {name: tensor.requires_grad_() for name, tensor in weights.items()}


def _loss(inputs: Tensor, weights: dict[str, Tensor], sparsity: float) -> Tensor:
    latents = F.relu(inputs @ weights["encoder"] + weights["bias"])
    missed = latents @ weights["decoder"] + weights["offset"] - inputs
    return missed.square().mean() + sparsity * latents.sum(1).mean() / inputs.shape[1]


@torch.no_grad()
def _unit_rows_(decoder: Tensor) -> None:
    # Otherwise the penalty would be met by small latents and a large decoder.
    decoder /= decoder.norm(dim=1, keepdim=True).clamp_min(torch.finfo(decoder.dtype).tiny)
