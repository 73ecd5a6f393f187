from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from lightning_unlearn.models.layers._adapters import adapters_around, factor_modules, replaced_modules
from lightning_unlearn.models.layers._computed import storages
from lightning_unlearn.models.layers._layouts import bare_layouts, known_layouts
from lightning_unlearn.models.layers._low_bit import count, packed_away
from lightning_unlearn.models.layers._matrix import Matrix
from lightning_unlearn.models.layers._storage import LowBit, as_it_is


def matrices(network: nn.Module) -> list[Matrix]:
    """Every weight of ``network`` that is a matrix, a stack of matrices, or a convolution; shared ones once.

    Those of ``nn.Linear``, the ``Conv1D`` of transformers, convolutions, LSTM, GRU and RNN, ``nn.MultiheadAttention``,
    embeddings, fused experts, and bare parameters with more than one axis. They may be plain, pruned, parametrized (weight
    norm, spectral norm), or in few bits. Factors of adapters are included, and have ``factor_of`` set.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> [(matrix.name, matrix.layout.kind, tuple(matrix.rows().shape)) for matrix in matrices(network)]
        [('0.weight', 'convolution', (8, 27)), ('2.weight', 'linear', (2, 8))]
    """
    unique: dict[int, Matrix] = {}
    for matrix in placed_matrices(network):
        unique.setdefault(matrix.key, matrix)
    return list(unique.values())


def placed_matrices(network: nn.Module) -> Iterator[Matrix]:
    """As :func:`matrices`, but a shared weight comes once for each layer that uses it.

    Layers whose weight FSDP1 or DeepSpeed has flattened or taken away are included: see ``Matrix.is_whole``.
    """
    around, factors = adapters_around(network), factor_modules(network)
    for name, module in network.named_modules():
        if isinstance(module, ParametrizationList):  # holds the parts of a weight that its parent module reports
            continue
        kept, layouts = storages(module), known_layouts(module)
        bare = {k: s.read() for k, s in kept.items() if k not in layouts and not isinstance(s, LowBit)}
        for key, layout in {**layouts, **bare_layouts(module, bare)}.items():
            storage = kept.get(key) or as_it_is(module, key)
            # One around a bare parameter, as of experts, is for the parameter that it names.
            adapters = tuple(a for a in around.get(module, ()) if getattr(a, "parameter_name", key) == key)
            yield Matrix(name, storage, layout, adapters, factors.get(module))


def own_matrices(network: nn.Module) -> list[Matrix]:
    """The matrices that shares of a network are taken of.

    Left out are embeddings, with what is tied to them, adapters, and what a trained copy stands in for.

    Example:
        >>> [matrix.name for matrix in own_matrices(nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2)))]
        ['1.weight']
    """
    replaced = set(replaced_modules(network))
    found = (m for m in matrices(network) if m.factor_of is None and m.layout.kind != "embedding")
    return [m for m in found if m.module not in replaced]


def covered_share(network: nn.Module, reached: Iterable[Matrix], *, among: Iterable[Matrix] | None = None) -> float:
    """The share of the weights of ``network`` that the given matrices hold, from 0 to 1.

    Args:
        network: The network.
        reached: The matrices.
        among: Of these matrices' weights, such as :func:`own_matrices`, and of those that GPTQ and AWQ have packed away;
            defaults to all parameters of the network.

    Returns:
        Without any weight to reach, 1 among matrices, and 0 in a network.

    Example:
        >>> network = nn.Linear(3, 1)
        >>> covered_share(network, matrices(network))
        0.75
    """
    parameters = network.parameters() if among is None else (p for matrix in among for p in matrix.parameters)
    numbers = {p: count(p) for p in parameters}
    total = sum(numbers.values()) + (packed_away(network) if among is not None else 0)
    if not total:
        return 0.0 if among is None else 1.0
    return sum(numbers.get(p, 0) for p in {p for matrix in reached for p in matrix.parameters}) / total
