from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.objectives.encoders._encoder import StoredEncoder


class SAE(StoredEncoder):
    r"""Latents are the activations of a sparse autoencoder.

    .. math:: z = \mathrm{ReLU}\Bigl(\frac{h - m}{s} \, W + b\Bigr), \qquad \hat h = m + s \, (z \, U + c)

    The rows of :math:`U` have length one. :func:`train_sae` makes the file, on hidden states of one layer, and
    ``benchmarks/train_encoder.py`` does so from a network and a text. Weights of a published autoencoder fit, if they are
    saved under these names, with :math:`m = 0` and :math:`s = 1`.

    Args:
        path: A ``.safetensors`` file with ``mean [D]``, ``scale []``, ``encoder [D, M]``, ``bias [M]``, ``decoder [M, D]``
            and ``offset [D]``.

    References:
        Bricken et al., `Towards Monosemanticity <https://transformer-circuits.pub/2023/monosemantic-features>`_, 2023.
    """

    names: ClassVar[tuple[str, ...]] = ("mean", "scale", "encoder", "bias", "decoder", "offset")
    made_by: ClassVar[str] = "train_sae(states, size, path)"
    mean: Tensor
    scale: Tensor
    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    offset: Tensor

    @override
    def forward(self, states: Tensor) -> Tensor:
        inputs = (states - self.mean.to(states)) / self.scale.to(states)
        return F.relu(inputs @ self.encoder.to(states) + self.bias.to(states))

    def decode(self, latents: Tensor) -> Tensor:
        """The hidden states ``[N, D]`` that latents ``[N, M]`` stand for."""
        outputs = latents @ self.decoder.to(latents) + self.offset.to(latents)
        return self.mean.to(latents) + self.scale.to(latents) * outputs
