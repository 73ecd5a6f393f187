"""Sources of the protected gradients of a step: the fit itself, a retain set, or single examples."""

from lightning_unlearn.guards.sources._base import GradientSource
from lightning_unlearn.guards.sources._choose_source import choose_source
from lightning_unlearn.guards.sources._examples import Examples
from lightning_unlearn.guards.sources._fit_gradient import FitGradient
from lightning_unlearn.guards.sources._retain_set import RetainSet

__all__ = ["Examples", "FitGradient", "GradientSource", "RetainSet", "choose_source"]
