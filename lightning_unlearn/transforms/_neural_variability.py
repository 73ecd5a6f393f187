from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import WeightNoise, root_mean_squares, sharded_like, show_original
from lightning_unlearn.functional.settings import check_not_negative, check_whole
from lightning_unlearn.runtime import hash_of, local
from lightning_unlearn.transforms._chain import Stage, StepChain
from lightning_unlearn.transforms._step import Step
from lightning_unlearn.transforms._step_transform import StepTransform


class NeuralVariability(StepTransform):
    r"""Compute all gradients at weights with noise on them: the fit looks for minima that perturbed weights share.

    In step :math:`t` each trained tensor :math:`\theta` gets fresh noise :math:`n_t`, and the optimizer's step
    :math:`\Delta` is taken from the weights without it:

    .. math:: \theta_{t+1} = \theta_t + \Delta\bigl(g(\theta_t + n_t)\bigr), \qquad
              \operatorname{std}(n_t) = b \cdot \operatorname{rms}(\theta_t)

    The noise is on from the start of a batch to its step, and in the forget passes of :class:`Unlearn`. It is off wherever
    the weights themselves are meant: in checks, validation and checkpoints, at the end, for guards (they see the step
    alone), and for attacks. The weights are kept as they are, not computed back. The first step of a fit has no noise, as
    in the paper, where it is added after a step; so whoever looks at the original at the first batch sees it.

    Noise is a function of the seed and the number of the step: a resumed fit draws the same, and so do all processes. It
    costs one copy of the weights, and random numbers three times a step. Optimizers read noisy weights: decoupled decay
    shrinks the noise of the step, too, and a protected gradient of :class:`StepGuard` is taken there.

    **Unlike the paper's code**, the scale is relative to the root mean square of each tensor, so that one ``b`` fits norms
    near 1 and matrices near 0.02; there it is absolute. A tensor of zeros, as LoRA's second factor at the start, gets none.
    There the noise stays on until every ``num_iters``-th step; here it is off after every step.

    Args:
        b: Standard deviation of the noise, relative to the root mean square of the tensor. 0 changes nothing, to the bit.
        dist: Distribution of the noise: ``"normal"``, ``"laplace"`` or ``"uniform"``, each of this standard deviation.
        seed: Seed of the noise.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization, DeepSpeed or FSDP1; when training starts, with LBFGS.
        RuntimeError: When training ends, if an optimizer step passed the callback by.

    Example:
        >>> noise = NeuralVariability(b=0.02)  # Trainer(callbacks=[unlearn, noise])

    References:
        Xie et al., `Artificial Neural Variability for Deep Learning <https://arxiv.org/abs/2011.06220>`_ (NVRM), 2021.
    """

    stage: ClassVar[Stage] = Stage.NOISE
    prefix: ClassVar[str] = "variability"
    works_on_flat_shards: ClassVar[bool] = False

    def __init__(
        self, b: float = 1e-2, dist: Literal["normal", "laplace", "uniform"] = "normal", *, seed: int = 0
    ) -> None:
        super().__init__()
        check_not_negative("b", b)
        check_whole("seed", seed, least=0)
        if dist not in _DRAWN:
            raise ValueError(f"`dist` should be 'normal', 'laplace' or 'uniform'. Found `dist = {dist!r}`.")
        self.b, self.dist, self.seed = b, dist, seed
        self._noise: WeightNoise | None = None
        self._watch: Any = None
        self._has_shown = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch for who saves the weights in the middle of a batch, as when an exception ends the fit."""
        super().on_train_start(trainer, pl_module)
        noise = self._noise = WeightNoise(pl_module)
        self._has_shown = False

        def take_off(saved: Any, *args: Any) -> None:
            if saved is pl_module:  # copies of the module have this hook, too
                noise.take_off()

        self._watch = pl_module.register_state_dict_pre_hook(take_off)  # type: ignore[no-untyped-call]

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the noise of this step on."""
        # SWA renews BatchNorm's statistics in an epoch of its own, for the averaged weights.
        if trainer.global_step and self.b and not trainer.fit_loop._skip_backward:
            assert self._noise is not None
            if not self._has_shown:  # a fit that is resumed: others, further down the list, see the original only now
                show_original(trainer, pl_module)
                self._has_shown = True
            params = self._noisy_params(trainer)
            self._noise.put_on(params, self._drawn(params, trainer.global_step))

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the noise off if no step follows: others may look at the weights between two micro-batches."""
        if trainer.fit_loop._should_accumulate():
            self._take_off()

    @override
    def wanted(self, step: Step) -> list[list[Tensor]]:
        return []

    @override
    def after(self, step: Step) -> None:
        """Nothing is left to do: the chain takes the noise off before any transform sees the step."""

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take off the noise of a step that was skipped."""
        self._take_off()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave neither noise nor hook behind."""
        self._end()
        super().on_exception(trainer, pl_module, exception)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave no hook behind."""
        self._end()
        super().teardown(trainer, pl_module, stage)

    def _noisy_params(self, trainer: pl.Trainer) -> list[Tensor]:
        chain = StepChain.of(trainer)
        params = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
        return [p for p in params if p.requires_grad and p.is_floating_point() and not chain.leaves_alone(p)]

    def _drawn(self, params: Sequence[Tensor], step: int) -> Callable[[int], Tensor]:
        """From the number of a parameter to the noise of its local shard."""
        scales = (self.b * root_mean_squares(list(params), params)).tolist()

        def noise(i: int) -> Tensor:
            shard, param = local(params[i]), params[i]
            generator = torch.Generator(shard.device).manual_seed(hash_of(self.seed, step, i))
            # Of the whole tensor, also where this process holds a shard: the result does not depend on the sharding.
            whole = torch.empty(param.shape, dtype=torch.float32, device=shard.device)
            return local(sharded_like(_DRAWN[self.dist](whole, generator).mul_(scales[i]), param))

        return noise

    def _take_off(self) -> None:
        if self._noise is not None:
            self._noise.take_off()

    def _end(self) -> None:
        self._take_off()
        if self._watch is not None:
            self._watch.remove()
        self._noise = self._watch = None


def _normal(empty: Tensor, generator: torch.Generator) -> Tensor:
    return empty.normal_(generator=generator)


def _uniform(empty: Tensor, generator: torch.Generator) -> Tensor:
    return empty.uniform_(-(3**0.5), 3**0.5, generator=generator)


def _laplace(empty: Tensor, generator: torch.Generator) -> Tensor:
    # A sign and an exponential of rate sqrt(2): standard deviation 1.
    signs = torch.randint(0, 2, empty.shape, generator=generator, device=empty.device) * 2 - 1
    return empty.exponential_(2**0.5, generator=generator).mul_(signs)


_DRAWN: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "normal": _normal,
    "laplace": _laplace,
    "uniform": _uniform,
}
