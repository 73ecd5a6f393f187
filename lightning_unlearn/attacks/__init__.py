"""What an adversary, or a deployment, does to a network."""

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._bits_and_bytes import BitsAndBytes
from lightning_unlearn.attacks._code_flips import CodeFlips, code_flips
from lightning_unlearn.attacks._gguf import GGUF
from lightning_unlearn.attacks._gptq import GPTQ
from lightning_unlearn.attacks._interpolate import Interpolate
from lightning_unlearn.attacks._knows_original import KnowsOriginal
from lightning_unlearn.attacks._latent_perturbation import LatentPerturbation
from lightning_unlearn.attacks._merge import Merge
from lightning_unlearn.attacks._noise import Noise
from lightning_unlearn.attacks._prune import Prune
from lightning_unlearn.attacks._quantize import Quantize
from lightning_unlearn.attacks._recalibrate import Recalibrate
from lightning_unlearn.attacks._relearn import Relearn
from lightning_unlearn.attacks._rounding_noise import RoundingNoise
from lightning_unlearn.attacks._sharpen import Sharpen
from lightning_unlearn.attacks._tokenwise_perturbation import TokenwisePerturbation
from lightning_unlearn.attacks._torch_ao import TorchAO
from lightning_unlearn.attacks._truncate_update import TruncateUpdate
from lightning_unlearn.attacks._wanda import Wanda

__all__ = [
    "Attack",
    "BatchLoss",
    "BitsAndBytes",
    "CodeFlips",
    "GGUF",
    "GPTQ",
    "Interpolate",
    "KnowsOriginal",
    "LatentPerturbation",
    "Merge",
    "Noise",
    "Prune",
    "Quantize",
    "Recalibrate",
    "Relearn",
    "RoundingNoise",
    "Sharpen",
    "TokenwisePerturbation",
    "TorchAO",
    "TruncateUpdate",
    "Wanda",
    "code_flips",
]
