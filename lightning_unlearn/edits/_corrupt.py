from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.edits._base import Edit
from lightning_unlearn.engine import GradientEngine, sharded_like, with_local
from lightning_unlearn.functional.settings import check_between, check_not_negative, check_whole
from lightning_unlearn.models.layers import adapters
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import hash_of, local


class Corrupt(Edit):
    r"""Damage all weights evenly, so that only what is taught again comes back: the second of UNDO's three steps.

    .. math:: W \leftarrow (1 - \alpha) W + \alpha \beta U, \qquad v \leftarrow (1 - \alpha) v

    for tensors :math:`W` with two axes or more, with :math:`U` drawn anew as by Xavier's uniform initialisation, and for
    vectors :math:`v` (biases, gains of norms), which only shrink.

    UNDO (unlearn, noise, distil on outputs) makes forgetting stay: a model that has unlearned is the teacher; its corrupted
    copy is the student, and learns the teacher's predictions on retain data alone. What the teacher merely hides is not
    taught. ``alpha`` is a dial between cost and robustness. The published settings are ``alpha=0.25, beta=0`` for
    Gemma-2-2B, which is a plain shrinking, and ``beta=0.1`` with ``alpha`` from 0.1 to 0.8 for small models. As two fits,
    the second with :class:`KLToReference` as the loss of :class:`UnlearningModule`, see ``bundled:undo``.

    Tied weights are changed once. ``U`` depends on ``seed`` and on the place of the parameter alone: it is the same on all
    processes, devices and shards. Parameters of every kind are meant, also those that are frozen.

    Args:
        alpha: How much is lost, from 0, nothing, to 1, all.
        beta: Size of the noise that takes its place, against a new initialisation.
        seed: Of the noise.

    Raises:
        NotImplementedError: When called, if the network has an adapter: its factors are not the weights.
        ValueError: When called, if weights are stored in few bits.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> _ = layer.weight.data.fill_(2.0)
        >>> record = Corrupt(alpha=0.25)(layer)
        >>> layer.weight.item()
        1.5

    References:
        Lee et al., `Distillation Robustifies Unlearning <https://arxiv.org/abs/2506.06278>`_, 2025, and its code.
    """

    def __init__(self, alpha: float = 0.25, beta: float = 0.0, seed: int = 0) -> None:
        check_between("alpha", alpha, 0, 1)
        check_not_negative("beta", beta)
        check_whole("seed", seed, least=0)
        self.alpha, self.beta, self.seed = alpha, beta, seed

    @override
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        if any(True for _ in adapters(network)):
            raise NotImplementedError(
                "`Corrupt` should get a network without an adapter: factors that shrink by a share shrink their product by "
                "more, and a frozen base could not learn again. Merge the adapter first (`merge_and_unload()`), and train "
                "all weights."
            )
        if not self.alpha:
            return
        for place, (name, param) in enumerate(network.named_parameters()):
            part = local(param.detach())
            kept = part.double() * (1 - self.alpha) if part.is_floating_point() else part
            if self.beta and param.dim() > 1:
                noise = local(sharded_like(self._noise(param, place).to(part.device), param))
                kept = kept + self.alpha * self.beta * noise.double()
            yield name, with_local(param, kept)

    def _noise(self, param: Tensor, place: int) -> Tensor:
        # Drawn on the CPU and whole: other devices, and shards, would draw other numbers from the same seed.
        generator = torch.Generator().manual_seed(hash_of(self.seed, place))
        return nn.init.xavier_uniform_(torch.empty(param.shape, dtype=torch.float32), generator=generator)
