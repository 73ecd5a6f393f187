"""What an adversary, or a deployment, does to a network."""

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._code_flips import CodeFlips, code_flips
from lightning_unlearn.attacks._quantize import Quantize
from lightning_unlearn.attacks._recalibrate import Recalibrate
from lightning_unlearn.attacks._relearn import Relearn
from lightning_unlearn.attacks._rounding_noise import RoundingNoise

__all__ = ["Attack", "BatchLoss", "CodeFlips", "Quantize", "Recalibrate", "Relearn", "RoundingNoise", "code_flips"]
