from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks import KnowsOriginal, Quantize
from lightning_unlearn.attacks._perturbed import in_full, restored
from lightning_unlearn.attacks._rounding import merged_rows
from lightning_unlearn.audits._base import Audit
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.quantization import flipped_fraction
from lightning_unlearn.functional.settings import check_named, check_whole
from lightning_unlearn.models.layers import Matrix
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import drop_copies, eval_without_grad, hash_of, local


class BucketFlips(KnowsOriginal, Audit):
    r"""How many weights few bits store as another level than the original's, by layer, without a forward pass.

    .. math:: \mathrm{flips} = \mathrm{mean} \, [\, c(W) \neq c(W_0) \,]

    with the level :math:`c` that a weight is rounded to, for each matrix that the rounding reaches, active adapters merged
    if it merges them. If no level flips, and no scale moves, then the rounded model *is* the rounded original: everything
    comes back, and no forward pass is needed to know. Many flips prove nothing by themselves: beside each share stands that
    of noise as large as the update of its matrix,

    .. math:: c\bigl(W_0 + \lVert W - W_0 \rVert \, z / \lVert z \rVert\bigr) \neq c(W_0), \qquad z \sim \mathcal{N}(0, 1)

    An update that flips no more than noise does is not built to survive rounding. One observation for each matrix, with its
    name as ``layer``, and one for all together, on the split ``weights``. It asks the weights alone, so it is not repeated
    under attack, and its numbers are the same in every process.

    A fit shows it the original. Outside of one there is ``original``.

    Args:
        grids: The roundings, by the name that metrics get. Defaults to ``nf4`` and to ``int8`` with a scale per channel.
        original: Weights of the original, where no fit shows it: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder.
        seed: Of the noise, whatever the global random state.

    Raises:
        ValueError: If the original is not known, or there is no weight to round.

    Example:
        >>> from lightning_unlearn import ClassificationReadout
        >>> network, audit = nn.Linear(64, 64, bias=False), BucketFlips({"int4": Quantize(bits=4)})
        >>> audit.see_original(network)
        >>> _ = network.weight.data.mul_(1 + 1e-6)
        >>> found = audit(network, readout=ClassificationReadout(), probes={}, engine=GradientEngine(network))
        >>> [(o.metric, o.layer, o.value < 0.01) for o in found][0]
        ('bucket_flips_int4', 'weight', True)

    References:
        Zhang et al., `Catastrophic Failure of LLM Unlearning via Quantization <https://arxiv.org/abs/2410.16454>`_, 2025,
        section 5, for why small changes are rounded away. The noise control is ours.
    """

    under_attack: ClassVar[bool] = False

    def __init__(self, grids: dict[str, Quantize] | None = None, original: str | None = None, seed: int = 0) -> None:
        super().__init__(original)
        grids = {"nf4": Quantize(4, codebook="nf4"), "int8": Quantize(8)} if grids is None else grids
        check_named("grids", grids, Quantize, example='{"int4": Quantize(bits=4)}')
        if not grids:
            raise ValueError("`grids` should hold at least one rounding. Found none. Leave it out for nf4 and int8.")
        check_whole("seed", seed, least=0)
        self.grids, self.seed = dict(grids), seed

    @override
    def definitions(self) -> dict[str, str]:
        words = {}
        for name in self.grids:
            words[_flips(name)] = (
                f"Share of the weights that are stored as another level than the original's once they are rounded ({name}). "
                "At 0 the rounded model is the rounded original: what was forgotten is back."
            )
            words[_by_noise(name)] = (
                f"The same share ({name}) if random noise, as large as what unlearning changed, is added to the original."
            )
        return words

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        drop_copies(network)  # FSDP2 may still hold gathered weights
        with torch.inference_mode(False), eval_without_grad(network):
            originals = {id(m.tensor): (m.tensor, m.original) for m in self.moved(network)}
            found = [(name, self._flips(grid, network, originals)) for name, grid in self.grids.items()]
        return [o for name, of_layers in found for o in _observed(name, of_layers)]

    @override
    def __repr__(self) -> str:
        """The grids, so that two audits with others under one name are told apart."""
        grids = ", ".join(f"{name}={rounding.grid}" for name, rounding in self.grids.items())
        return f"BucketFlips({grids}, original={self.original!r}, seed={self.seed})"

    def _flips(self, grid: Quantize, network: nn.Module, originals: dict[int, Any]) -> dict[str, _Flips]:
        return {
            matrix.name: self._of_matrix(grid, matrix, network, originals) for matrix in grid.whole_matrices(network)
        }

    def _of_matrix(self, grid: Quantize, matrix: Matrix, network: nn.Module, originals: dict[int, Any]) -> _Flips:
        adapters = grid.adapters_of(matrix)
        made_of = [*matrix.parameters, *(p for a in adapters for n, p in a.named_parameters() if "base_layer" not in n)]
        changed = [originals[id(p)] for p in made_of if id(p) in originals]
        now = merged_rows(matrix, adapters)
        if not changed:
            return _Flips(0.0, 0.0, now.numel())
        with restored(network, [tensor for tensor, _ in changed]):
            for tensor, original in changed:
                local(tensor).data.copy_(original)
            before = merged_rows(matrix, adapters)
        noise = self._noise(matrix, before) * (now.double() - before).norm()
        disturbed = (before + noise).to(in_full(before))
        flipped, by_noise = (float(flipped_fraction(before, w, codes=grid.codes)) for w in (now, disturbed))
        return _Flips(flipped, by_noise, now.numel())

    def _noise(self, matrix: Matrix, like: Tensor) -> Tensor:
        """Noise of the shape of ``like``, float64, of norm 1."""
        generator = torch.Generator(like.device).manual_seed(hash_of(self.seed, *matrix.name.encode()))
        noise = torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float64)
        length: Tensor = noise.norm().clamp_min(torch.finfo(torch.float64).tiny)
        return noise / length


class _Flips(NamedTuple):
    flipped: float
    by_noise: float
    weights: int


def _observed(name: str, of_layers: Mapping[str, _Flips]) -> Iterator[Observation]:
    total = sum(flips.weights for flips in of_layers.values())
    for metric, place in ((_flips(name), 0), (_by_noise(name), 1)):
        shares = {layer: float(flips[place]) for layer, flips in of_layers.items()}
        mean = sum(share * of_layers[layer].weights for layer, share in shares.items()) / max(total, 1)
        for layer, share in {**shares, "": mean}.items():
            yield Observation(metric, "weights", share, higher_means_known=False, bounds=(0.0, 1.0), layer=layer)


def _flips(name: str) -> str:
    return f"bucket_flips_{name}"


def _by_noise(name: str) -> str:
    return f"noise_flips_{name}"
