"""What an adversary, or a deployment, does to a network."""

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._code_flips import CodeFlips, code_flips
from lightning_unlearn.attacks._interpolate import Interpolate
from lightning_unlearn.attacks._knows_original import KnowsOriginal
from lightning_unlearn.attacks._latent_perturbation import LatentPerturbation
from lightning_unlearn.attacks._noise import Noise
from lightning_unlearn.attacks._prune import Prune
from lightning_unlearn.attacks._quantize import Quantize
from lightning_unlearn.attacks._recalibrate import Recalibrate
from lightning_unlearn.attacks._relearn import Relearn
from lightning_unlearn.attacks._rounding_noise import RoundingNoise
from lightning_unlearn.attacks._sharpen import Sharpen
from lightning_unlearn.attacks._tokenwise_perturbation import TokenwisePerturbation
from lightning_unlearn.attacks._truncate_update import TruncateUpdate
from lightning_unlearn.attacks.prompts import (
    AffirmativeStart,
    AnyWording,
    BenignTrigger,
    CharacterNoise,
    CombinedQuery,
    ContextLadder,
    FewShot,
    ForeignFrame,
    KeywordEmphasis,
    OtherFacts,
    Paraphrase,
    PrefixInjection,
    PromptAttack,
    RolePlay,
    SeveralTurns,
    SoftPrompt,
    Templates,
    TypicalWording,
)

__all__ = [
    "AffirmativeStart",
    "AnyWording",
    "Attack",
    "BatchLoss",
    "BenignTrigger",
    "CharacterNoise",
    "CodeFlips",
    "CombinedQuery",
    "ContextLadder",
    "FewShot",
    "ForeignFrame",
    "Interpolate",
    "KeywordEmphasis",
    "KnowsOriginal",
    "LatentPerturbation",
    "Noise",
    "OtherFacts",
    "Paraphrase",
    "PrefixInjection",
    "PromptAttack",
    "Prune",
    "Quantize",
    "Recalibrate",
    "Relearn",
    "RolePlay",
    "RoundingNoise",
    "SeveralTurns",
    "SoftPrompt",
    "Sharpen",
    "Templates",
    "TokenwisePerturbation",
    "TruncateUpdate",
    "TypicalWording",
    "code_flips",
]
