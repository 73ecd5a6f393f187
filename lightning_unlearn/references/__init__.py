"""Where the frozen original comes from."""

from lightning_unlearn.references._adapter_disabled import AdapterDisabled, why_adapter_is_not_enough
from lightning_unlearn.references._base import Reference
from lightning_unlearn.references._cached_log_likelihood import CachedLogLikelihood
from lightning_unlearn.references._choice import choose_reference
from lightning_unlearn.references._frozen_copy import FrozenCopy
from lightning_unlearn.references._original import Original, copied, copy_of, moves

__all__ = [
    "Reference",
    "AdapterDisabled",
    "CachedLogLikelihood",
    "FrozenCopy",
    "Original",
    "choose_reference",
    "copied",
    "copy_of",
    "moves",
    "why_adapter_is_not_enough",
]
