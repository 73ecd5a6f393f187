from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_positive, check_whole
from lightning_unlearn.models.layers import blocks, name_fits
from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import drop_copies, eval_without_grad, hash_of
from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._losses import needed
from lightning_unlearn.selectors._traced import corrupted, recorded, restored


class CausalTrace(Selector):
    r"""In which blocks what must go is written, by putting back what noise has destroyed.

    Noise on what goes into the first block lowers the probability of an answer from :math:`P_c` to :math:`P_x`. With what a
    window of blocks adds put back to its value without noise, it is :math:`P_l`:

    .. math:: s_l = \operatorname{median}_i \frac{P_l^i - P_x^i}{P_c^i - P_x^i + 10^{-6}}

    About 1 where the window alone restores the answer, 0 where it does nothing. A block has the highest score of the windows
    that it is in, so ``TopLayers(1)`` chooses the best window. :math:`P` is the geometric mean over the tokens of an answer;
    the median is over the examples, as the ratio explodes where noise does little. Costs one forward pass over the forget
    data for each window, and two more. The global random generators are not used.

    **Rebuilt from a description**: neither paper nor code could be had. Noise is on all positions, those of the answer
    included.

    Args:
        window: Blocks in a row that are put back at once.
        noise: Its standard deviation, relative to that of what goes into the first block.
        part: ``fnmatch`` pattern of the one module in each block whose output is put back, and whose parameters are scored,
            such as ``"mlp"``, which is the published choice. Defaults to what a block as a whole adds to its input, and all
            its parameters.
        seed: Of the noise.

    Raises:
        ValueError: When it scores, without forget data or a readout, or if there are no blocks, or none with one such part.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> batch = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> list(CausalTrace(window=1).scores(network, forget=[batch], readout=ClassificationReadout()))
        ['0.weight', '0.bias', '1.weight', '1.bias']

    References:
        The localisation of `KUDA <https://arxiv.org/abs/2602.19275>`_, 2026; causal tracing is of Meng et al., `ROME
        <https://arxiv.org/abs/2202.05262>`_, 2022, section 2.
    """

    needs_forget = True

    def __init__(self, window: int = 3, noise: float = 3.0, part: str | None = None, seed: int = 0) -> None:
        check_whole("window", window)
        check_positive("noise", noise)
        self.window, self.noise, self.part, self.seed = window, noise, part, seed

    @override
    def scores(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any] = (),
        retain: Sequence[Any] = (),
        readout: Readout | None = None,
        engine: GradientEngine | None = None,
    ) -> dict[str, Tensor]:
        readout = needed(self, readout, forget=forget).unpacked()
        engine = GradientEngine(network) if engine is None else engine
        first, parts = self._parts(network)
        windows = [parts[i : i + self.window] for i in range(max(len(parts) - self.window, 0) + 1)]

        def probabilities(batch: Any) -> Tensor:
            return _probabilities(engine.forward(lambda b: readout(network, b), batch))

        effects = []
        with eval_without_grad(network):
            for number, batch in enumerate(forget):
                with recorded(network, parts, adds=self.part is None) as clean:
                    whole = probabilities(batch)
                with corrupted(network, first, self.noise, seed=hash_of(self.seed, number)):
                    broken = probabilities(batch)
                    for window in windows:
                        with restored(network, {m: clean[m] for m in window}, adds=self.part is None):
                            effects.append((probabilities(batch) - broken) / (whole - broken + 1e-6))
        drop_copies(network)  # without a graph, FSDP2's root keeps what it has gathered
        # [batches * windows] tensors of [examples]
        medians = [torch.cat(effects[i :: len(windows)]).quantile(0.5).float() for i in range(len(windows))]
        found: dict[Tensor, Tensor] = {}
        for window, median in zip(windows, medians, strict=True):
            for p in (p for part in window for p in part.parameters()):
                found[p] = torch.maximum(median, found.get(p, median))
        return {name: found[p] for name, p in selectable(network).items() if p in found}

    def _parts(self, network: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
        """The first block, and what is put back in each."""
        found = list(blocks(network).values())
        if not found:
            raise ValueError(
                "`CausalTrace` should find blocks, modules that repeat in a list. Found none in "
                f"`{type(network).__name__}`. Use `GradientSaliency(by='tensor')`."
            )
        return found[0], found if self.part is None else [_part(block, self.part) for block in found]

    def __repr__(self) -> str:
        return f"CausalTrace(window={self.window}, noise={self.noise}, part={self.part!r}, seed={self.seed})"


def _part(block: nn.Module, pattern: str) -> nn.Module:
    fitting: dict[str, nn.Module] = {
        name: m for name, m in block.named_modules() if name and name_fits(name, [pattern])
    }
    outer: dict[str, nn.Module] = {
        n: m for n, m in fitting.items() if not any(n.startswith(f"{other}.") for other in fitting)
    }
    if len(outer) != 1:
        children = ", ".join(f"`{name}`" for name, _ in block.named_children())
        raise ValueError(
            f"`part` should name one module of each block. Found {len(outer)} for `part = {pattern!r}`; a block has "
            f"{children or 'no parts'}."
        )
    (found,) = outer.values()
    return found


def _probabilities(likelihood: Likelihood) -> Tensor:
    """Of the answers that there are."""
    mean = likelihood.example_nll() / likelihood.rows_per_example().clamp_min(1)
    return (-mean[likelihood.supervised()].double()).exp()
