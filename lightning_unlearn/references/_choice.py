from __future__ import annotations

from torch import nn

from lightning_unlearn.objectives import Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references._adapter_disabled import AdapterDisabled, why_adapter_is_not_enough
from lightning_unlearn.references._base import Reference
from lightning_unlearn.references._cached_log_likelihood import CachedLogLikelihood
from lightning_unlearn.references._frozen_copy import FrozenCopy


def choose_reference(
    objective: Objective, network: nn.Module, readout: Readout | None = None, earlier: Reference | None = None
) -> Reference | None:
    """The cheapest reference that serves ``objective``: none, the adapter switched off, a cache, a copy.

    Args:
        objective: What the reference is for.
        network: The network, while it is still the original.
        readout: How it is run, if that is known. Without logits it may give one likelihood per batch, and draw at random:
            then a copy sees what the network sees, and a cache would not.
        earlier: A reference that was chosen before; it is kept if it is of the kind that serves.

    Example:
        >>> from lightning_unlearn.objectives import CrossEntropy, NPO
        >>> choose_reference(CrossEntropy(), nn.Linear(1, 1)) is None
        True
        >>> type(choose_reference(NPO(), nn.Linear(1, 1))).__name__
        'CachedLogLikelihood'
    """
    if not objective.needs_reference:
        return None
    # Cheapest first: an adapter takes no memory, a cache four bytes a token (but has no logits), a copy all trained weights.
    if why_adapter_is_not_enough(network) is None:
        kind: type[Reference] = AdapterDisabled
    else:
        is_cacheable = not objective.needs_reference_logits and (readout is None or readout.gives_logits)
        kind = CachedLogLikelihood if is_cacheable else FrozenCopy
    return earlier if type(earlier) is kind else kind()
