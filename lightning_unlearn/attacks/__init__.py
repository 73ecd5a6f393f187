"""What an adversary, or a deployment, does to a network."""

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._noise import Noise
from lightning_unlearn.attacks._prune import Prune
from lightning_unlearn.attacks._quantize import Quantize
from lightning_unlearn.attacks._recalibrate import Recalibrate
from lightning_unlearn.attacks._relearn import Relearn
from lightning_unlearn.attacks._sharpen import Sharpen

__all__ = ["Attack", "BatchLoss", "Noise", "Prune", "Quantize", "Recalibrate", "Relearn", "Sharpen"]
