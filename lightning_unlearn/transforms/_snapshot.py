from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_unlearn.functional.bundles import joined
from lightning_unlearn.runtime import local


class Snapshot:
    """Copies of weights, one for each parameter, however many transforms need it.

    Of sharded parameters it copies the local shards. Many small parameters can be kept as one long vector; the copy of each
    of them is then a view of that vector.

    Example:
        >>> import torch
        >>> a, b = torch.ones(2), torch.zeros(1)
        >>> snapshot = Snapshot()
        >>> snapshot.keep([a, b])
        >>> snapshot.keep([a])  # is kept already
        >>> _ = a.zero_()
        >>> snapshot.of([a]), snapshot.of([a, b])
        (tensor([1., 1.]), tensor([1., 1., 0.]))
    """

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}
        self._vectors: dict[tuple[int, ...], Tensor] = {}

    def keep(self, params: Sequence[Tensor]) -> None:
        """Copy the parameters that are not kept yet; as one vector, if none of them is."""
        weights = {id(p): local(p).detach() for p in params if id(p) not in self._held}
        if not 1 < len(weights) == len(params):
            self._held |= {key: weight.clone() for key, weight in weights.items()}
            return
        sizes = [weight.numel() for weight in weights.values()]
        vector = joined(list(weights.values()), sizes)
        assert vector is not None
        parts = zip(weights.items(), vector.split(sizes), strict=True)
        self._held |= {key: part.view(weight.shape) for (key, weight), part in parts}
        self._vectors[tuple(weights)] = vector

    def holds(self, param: Tensor) -> bool:
        """Whether there is a copy of ``param``."""
        return id(param) in self._held

    def of(self, params: Sequence[Tensor]) -> Tensor:
        """The copy of one parameter, in its shape; of several, one vector: no new copy if they were kept together."""
        if len(params) == 1:
            return self._held[id(params[0])]
        vector = self._vectors.get(tuple(id(p) for p in params))
        if vector is None:
            held = [self._held[id(p)] for p in params]
            vector = joined(held, [t.numel() for t in held])
        assert vector is not None
        return vector
