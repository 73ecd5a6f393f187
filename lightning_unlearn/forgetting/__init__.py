"""Adding the forget gradient to a fit: `Unlearn` and its parts."""

from lightning_unlearn.forgetting._bilevel_unlearn import BilevelUnlearn
from lightning_unlearn.forgetting._curvature import Curvature, DoubleBackward, FiniteDifference
from lightning_unlearn.forgetting._forget_source import forget_source
from lightning_unlearn.forgetting._objectives_in import ObjectiveInFit, objectives_in
from lightning_unlearn.forgetting._passes import CheaperPass, Passes, TwoPasses
from lightning_unlearn.forgetting._penalized_unlearn import PenalizedUnlearn
from lightning_unlearn.forgetting._shown_original import ShownOriginal
from lightning_unlearn.forgetting._takes_turns import TakesTurns
from lightning_unlearn.forgetting._turns import Turn
from lightning_unlearn.forgetting._unlearn import Unlearn

__all__ = [
    "BilevelUnlearn",
    "CheaperPass",
    "Curvature",
    "DoubleBackward",
    "FiniteDifference",
    "ObjectiveInFit",
    "Passes",
    "PenalizedUnlearn",
    "ShownOriginal",
    "TakesTurns",
    "Turn",
    "TwoPasses",
    "Unlearn",
    "forget_source",
    "objectives_in",
]
