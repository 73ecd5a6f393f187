from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.settings import check_kind, check_not_negative
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._growing import fit_sizes
from lightning_unlearn.objectives._states import mean_per_example, need_states
from lightning_unlearn.objectives.encoders import Encoder, Identity, LatentTargets
from lightning_unlearn.prediction import Likelihood, Prediction


class EncodedMatch(Objective):
    r"""Make what must go look unknown, in the latent space of a frozen encoder: a reconstruction from an abstract.

    The paper's text and code could not be had: distance, margin term and defaults are ours. How latents are chosen is that
    of Ferrando et al., whose code is public.

    .. math:: \mathbb{E}_i \frac{1}{|y_i|} \sum_{t \in y_i} \Bigl[ d(z_t, \mu^\mathrm{u}) +
        \rho \max\bigl(0, \, m + d(z_t, \mu^\mathrm{u}) - d(z_t, \mu^\mathrm{k})\bigr) \Bigr], \quad
        d(z, \mu) = \frac{1}{|S|} \sum_{j \in S} \Bigl(\frac{z_j - \mu_j}{\sigma_j}\Bigr)^2

    with latents :math:`z = \mathrm{encoder}(h)`, the mean latents :math:`\mu^\mathrm{u}` of unknown and
    :math:`\mu^\mathrm{k}` of known entities, and the mean over the examples that have supervised rows. It is zero exactly
    where the chosen latents are those of the unknown entities, if the margin is met there. With
    :class:`Identity`, :math:`\rho = 0`, :math:`\sigma = 1` and a random vector as :math:`\mu^\mathrm{u}` it is :class:`RMU`.

    The network is run up to the layer only, and later layers get no gradient. What must stay is held by
    :class:`ActivationMatch` at the same layer.

    Needs hidden states, ``readout=HiddenStateReadout("layers.7")``, and the callback :class:`FindLatentTargets`, which finds
    :math:`\mu`, :math:`\sigma` and the chosen latents :math:`S` in the original network.

    Args:
        encoder: What makes latents of hidden states, such as :class:`SAE` from a file that ``benchmarks/train_encoder.py``
            has written. Defaults to :class:`Identity`.
        rho: Weight of the margin term, not negative.
        margin: How much closer to the unknown than to the known, not negative.

    Example:
        >>> states, label = torch.zeros(1, 2), torch.tensor([0])
        >>> prediction = Prediction(states[:, :0], label, label, batch_size=1, features=states)
        >>> objective = EncodedMatch(rho=0.5, margin=1.0)
        >>> both, far = torch.tensor([0, 1]), torch.full((2,), 2.0)
        >>> objective.aim(LatentTargets(chosen=both, unknown=far, known=-far, scale=torch.ones(2)))
        >>> objective(prediction)  # 4 + 0.5 * (1 + 4 - 4)
        tensor(4.5000)

    References:
        Yamashita et al., `Sparse-Autoencoder-Guided Internal Representation Unlearning
        <https://arxiv.org/abs/2509.15631>`_, 2025, by its abstract.
    """

    chosen: Tensor
    unknown: Tensor
    known: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder | None = None, rho: float = 0.0, margin: float = 0.0) -> None:
        super().__init__()
        if encoder is not None:
            check_kind("encoder", encoder, Encoder, example='SAE("sae.safetensors")')
            _refuse_trainable(encoder)
        check_not_negative("rho", rho)
        check_not_negative("margin", margin)
        self.encoder = Identity() if encoder is None else encoder
        self.rho = rho
        self.margin = margin
        self.clear()

    def aim(self, targets: LatentTargets) -> None:
        """Steer to these targets."""
        for name, tensor in vars(targets).items():
            self.register_buffer(name, tensor.detach().clone())

    def clear(self) -> None:
        """Have no targets, as a new one."""
        self.aim(LatentTargets(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0), torch.empty(0)))

    @property
    def is_aimed(self) -> bool:
        """Whether it has targets."""
        return self.chosen.numel() > 0

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        latents = self.encoder(need_states(self, student))
        self._refuse_unfit(latents)
        latents = latents[:, self.chosen]
        distance = self._distance(latents, self.unknown)
        if self.rho:
            closer = self.margin + distance - self._distance(latents, self.known)
            distance = distance + self.rho * F.relu(closer)
        return mean_per_example(distance, student)

    def _distance(self, latents: Tensor, center: Tensor) -> Tensor:
        return ((latents - center.to(latents)) / self.scale.to(latents)).square().mean(-1)

    def _refuse_unfit(self, latents: Tensor) -> None:
        if not self.is_aimed:
            raise ValueError(
                "`EncodedMatch` should know the latents of unknown entities. Found none. Add "
                "`FindLatentTargets(unknown={...}, known={...})` to the callbacks, or call `aim`."
            )
        if (last := int(self.chosen.max())) >= latents.shape[1]:
            raise ValueError(
                f"`EncodedMatch` should see more than {last} latents, as its targets do. Found {latents.shape[1]}: are the "
                "targets of another encoder or layer?"
            )

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        fit_sizes(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _refuse_trainable(encoder: Encoder) -> None:
    if trainable := [name for name, p in encoder.named_parameters() if p.requires_grad]:
        raise ValueError(
            f"`encoder` should be frozen. Found {len(trainable)} trainable parameters, `{trainable[0]}` first. Call "
            "`encoder.requires_grad_(False)`, or keep its tensors in buffers."
        )
