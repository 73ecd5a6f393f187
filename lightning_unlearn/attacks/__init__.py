"""What an adversary, or a deployment, does to a network."""

from lightning_unlearn.attacks._ablate_direction import AblateDirection
from lightning_unlearn.attacks._attack_grid import AttackGrid, expanded
from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._bits_and_bytes import BitsAndBytes
from lightning_unlearn.attacks._code_flips import CodeFlips, code_flips
from lightning_unlearn.attacks._concept_shift import ConceptShift
from lightning_unlearn.attacks._gguf import GGUF
from lightning_unlearn.attacks._gptq import GPTQ
from lightning_unlearn.attacks._interpolate import Interpolate
from lightning_unlearn.attacks._knows_original import KnowsOriginal
from lightning_unlearn.attacks._latent_perturbation import LatentPerturbation
from lightning_unlearn.attacks._merge import Merge
from lightning_unlearn.attacks._noise import Noise
from lightning_unlearn.attacks._passive_recovery import PassiveRecovery
from lightning_unlearn.attacks._prune import Prune
from lightning_unlearn.attacks._quantize import Quantize
from lightning_unlearn.attacks._recalibrate import Recalibrate
from lightning_unlearn.attacks._relearn import Relearn
from lightning_unlearn.attacks._relearn_in_turn import RelearnInTurn
from lightning_unlearn.attacks._rounding_noise import RoundingNoise
from lightning_unlearn.attacks._runs_as_original import RunsAsOriginal
from lightning_unlearn.attacks._sharpen import Sharpen
from lightning_unlearn.attacks._tokenwise_perturbation import TokenwisePerturbation
from lightning_unlearn.attacks._torch_ao import TorchAO
from lightning_unlearn.attacks._truncate_update import TruncateUpdate
from lightning_unlearn.attacks._wanda import Wanda
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
    "AblateDirection",
    "AffirmativeStart",
    "AnyWording",
    "Attack",
    "AttackGrid",
    "BatchLoss",
    "BenignTrigger",
    "BitsAndBytes",
    "CharacterNoise",
    "CodeFlips",
    "CombinedQuery",
    "ConceptShift",
    "ContextLadder",
    "FewShot",
    "ForeignFrame",
    "GGUF",
    "GPTQ",
    "Interpolate",
    "KeywordEmphasis",
    "KnowsOriginal",
    "LatentPerturbation",
    "Merge",
    "Noise",
    "OtherFacts",
    "Paraphrase",
    "PassiveRecovery",
    "PrefixInjection",
    "PromptAttack",
    "Prune",
    "Quantize",
    "Recalibrate",
    "Relearn",
    "RelearnInTurn",
    "RolePlay",
    "RoundingNoise",
    "RunsAsOriginal",
    "SeveralTurns",
    "Sharpen",
    "SoftPrompt",
    "Templates",
    "TokenwisePerturbation",
    "TorchAO",
    "TruncateUpdate",
    "TypicalWording",
    "Wanda",
    "code_flips",
    "expanded",
]
