"""Adding the forget gradient to a fit: `Unlearn`, and what it is made of."""

from lightning_unlearn.forgetting._forget_source import forget_source
from lightning_unlearn.forgetting._unlearn import Unlearn

__all__ = ["Unlearn", "forget_source"]
