"""Attacks by prompt: the same questions in other words, which never hold the answer."""

from lightning_unlearn.attacks.prompts._affirmative_start import AffirmativeStart
from lightning_unlearn.attacks.prompts._all_wordings import AllWordings, AnyWording, TypicalWording
from lightning_unlearn.attacks.prompts._answer_words import AnswerWords, Told, free_of_answers
from lightning_unlearn.attacks.prompts._character_noise import CharacterNoise
from lightning_unlearn.attacks.prompts._combined_query import CombinedQuery
from lightning_unlearn.attacks.prompts._context_ladder import ContextLadder
from lightning_unlearn.attacks.prompts._few_shot import FewShot
from lightning_unlearn.attacks.prompts._frames import BenignTrigger, ForeignFrame, PrefixInjection, RolePlay
from lightning_unlearn.attacks.prompts._in_context import InContext
from lightning_unlearn.attacks.prompts._keyword_emphasis import KeywordEmphasis
from lightning_unlearn.attacks.prompts._other_facts import OtherFacts
from lightning_unlearn.attacks.prompts._paraphrase import Paraphrase
from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.attacks.prompts._several_turns import SeveralTurns
from lightning_unlearn.attacks.prompts._soft_prompt import SoftPrompt
from lightning_unlearn.attacks.prompts._templates import Templates

__all__ = [
    "AffirmativeStart",
    "AllWordings",
    "AnswerWords",
    "AnyWording",
    "BenignTrigger",
    "CharacterNoise",
    "CombinedQuery",
    "ContextLadder",
    "FewShot",
    "ForeignFrame",
    "InContext",
    "KeywordEmphasis",
    "OtherFacts",
    "Paraphrase",
    "PrefixInjection",
    "PromptAttack",
    "RolePlay",
    "SeveralTurns",
    "SoftPrompt",
    "Templates",
    "Told",
    "TypicalWording",
    "free_of_answers",
]
