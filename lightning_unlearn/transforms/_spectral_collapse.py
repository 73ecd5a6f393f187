from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.functional.settings import check_between, check_whole
from lightning_unlearn.functional.spectral import Kind, SpectralFilter
from lightning_unlearn.models.layers import Layout
from lightning_unlearn.transforms._chosen_matrices import chosen_layouts
from lightning_unlearn.transforms._gradient_transform import GradientTransform

_USUAL = 8


class SpectralCollapse(GradientTransform):
    r"""Forget by what is special: take out of each matrix's forget gradient the directions that are largest in it.

    What the forget examples share with each other, and with everything else, makes up the largest singular values
    :math:`s_1 \ge s_2 \ge \dots` of the gradient. A step along them changes much that must stay, and training on anything
    similar undoes it. So they give way. With ``hard``, :math:`s_1, \dots, s_q` become 0; with ``soft`` :math:`s_q`, with
    ``both`` :math:`s_q^2 / s_i`, with ``quadratic`` :math:`s_q^4 / s_i^3`. All others stay, and so do all directions. The
    inner product with the gradient itself stays positive.

    The inner product is all that is promised. How much of the knowledge stays away is a question to measure: by
    :class:`RecoveryCheck`, with training on other data than what was forgotten, too.

    Vectors (biases, norms) are left alone. By default embeddings and output heads are, too, and so is any weight that is
    computed from others, as under weight norm. Convolutions are matrices ``[out, in * kernel]``. The queries, keys and
    values of ``nn.MultiheadAttention`` are one matrix, as are the gates of a recurrent layer. Of fused experts each is
    collapsed by itself.

    **The learning rate.** A collapsed gradient is shorter and forgets more slowly for each step, but leaves more intact:
    choose the learning rate anew, and expect it to be two to ten times higher.

    **How many.** A gradient's rank is at most the number of tokens in the forget batches of a step. ``q`` should stay well
    below. It is limited by the numerical rank, and for ``hard`` so that one direction is left. Under ``bf16-mixed`` the
    rounding of single products hides the rank, and only a ``q`` that is small enough protects from working on noise.

    **Cost.** One decomposition of each matrix and step: exact up to 256 rows or columns, else randomised, with the same
    random numbers every time; see :func:`lightning_unlearn.functional.spectral.collapse`. With ``refresh_every`` it is
    computed every few steps, and the filter, made of :math:`U` and :math:`V`, is used again in between; it is then in the
    checkpoint. Sharded gradients (FSDP2) are gathered, one at a time. FSDP1, which flattens matrices, is refused.

    Args:
        q: How many singular values; 8 if neither this nor ``fraction`` is given. 0 changes nothing.
        fraction: Instead of ``q``, their share of the smaller side of each matrix, from 0 to 1; rounded up.
        kind: What becomes of them.
        pattern: ``fnmatch`` patterns of the full names of weights, or of any part of them between dots, such as ``"mlp"``.
            Only these matrices are collapsed, embeddings and heads among them. Defaults to all but those two.
        refresh_every: After how many steps the directions are computed again.

    Raises:
        NotImplementedError: When training starts, if a factor of a LoRA adapter is among the matrices: its gradient is not
            that of the weight.
        ValueError: When training starts, if there is no such matrix.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 3, bias=False)
        >>> collapse = SpectralCollapse(q=1)  # Unlearn(..., transforms=[collapse])
        >>> collapse.attach(layer)
        >>> collapse([torch.diag(torch.tensor([9.0, 2.0, 1.0]))], [layer.weight])
        [tensor([[0., 0., 0.],
                [0., 2., 0.],
                [0., 0., 1.]])]

    References:
        After `RepSelect <https://arxiv.org/abs/2606.17168>`_, 2026, by its code (the paper's text was not to be had). There
        it is one change of the weights along a gradient summed over the forget set, by plain SGD, on the matrices of MLPs.
        Collapsing the gradient of each step, before Adam, is ours.
    """

    needs_whole: ClassVar[bool] = True

    def __init__(
        self,
        q: int | None = None,
        *,
        fraction: float | None = None,
        kind: Kind = "hard",
        pattern: str | list[str] | None = None,
        refresh_every: int = 1,
    ) -> None:
        if q is not None and fraction is not None:
            raise ValueError(f"Either `q` or `fraction` should be given. Found `q = {q}` and `fraction = {fraction}`.")
        if fraction is None:
            q = _USUAL if q is None else q
            check_whole("q", q, least=0)
        else:
            check_between("fraction", fraction, 0, 1)
        if kind not in get_args(Kind):
            raise ValueError(f"`kind` should be one of {get_args(Kind)}. Found `kind = {kind!r}`.")
        check_whole("refresh_every", refresh_every)
        self.q = q
        self.fraction = fraction
        self.kind = kind
        self.patterns = [pattern] if isinstance(pattern, str) else pattern
        self.refresh_every = refresh_every
        self._matrices: dict[int, tuple[str, Layout]] = {}
        self._filters: dict[str, tuple[int, SpectralFilter]] = {}  # how often each was used

    @override
    def attach(self, module: nn.Module) -> None:
        """Find the matrices."""
        self._matrices = chosen_layouts(module, self.patterns, type(self).__name__)
        self._filters = {}

    @override
    def changes(self, param: Tensor) -> bool:
        return id(param) in self._matrices

    @override
    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        name, layout = self._matrices[id(param)]
        view = layout.view(gradient)
        matrix = view.flatten(layout.stacked + 1)
        if not self._q(matrix):
            return gradient
        view.copy_(self._filter(name, matrix)(matrix).view(view.shape))  # in place: memory keeps the order it has
        return gradient

    @override
    def state_dict(self) -> dict[str, Any]:
        """The filters that will be used again."""
        return {
            name: {"used": used, **vars(kept)}
            for name, (used, kept) in self._filters.items()
            if used < self.refresh_every
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Use them again."""
        for name, saved in state.items():
            parts = {key: value for key, value in saved.items() if key != "used"}
            self._filters[name] = saved["used"], SpectralFilter(**parts)

    def __repr__(self) -> str:
        size = f"q={self.q}" if self.fraction is None else f"fraction={self.fraction}"
        return f"SpectralCollapse({size}, kind={self.kind!r})"

    def _filter(self, name: str, matrix: Tensor) -> SpectralFilter:
        used, kept = self._filters.get(name, (self.refresh_every, None))
        if kept is None or used >= self.refresh_every:
            used, kept = 0, SpectralFilter.of(matrix, self._q(matrix), self.kind)
        if self.refresh_every > 1:
            self._filters[name] = used + 1, kept
        return kept.to(matrix.device)

    def _q(self, matrix: Tensor) -> int:
        if self.q is not None:
            return self.q
        assert self.fraction is not None
        # 0.1 * 30 gives 3.0000000000000004, which should count as 3.
        return math.ceil(self.fraction * min(matrix.shape[-2:]) - 1e-9)
