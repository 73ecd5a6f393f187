"""Where the frozen original comes from."""

from lightning_unlearn.references._adapter_disabled import AdapterDisabled, why_adapter_is_not_enough
from lightning_unlearn.references._base import Reference
from lightning_unlearn.references._cached_log_likelihood import CachedLogLikelihood
from lightning_unlearn.references._choice import choose_reference
from lightning_unlearn.references._frozen_copy import FrozenCopy

__all__ = [
    "Reference",
    "AdapterDisabled",
    "CachedLogLikelihood",
    "FrozenCopy",
    "choose_reference",
    "why_adapter_is_not_enough",
]
