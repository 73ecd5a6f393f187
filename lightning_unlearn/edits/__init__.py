"""One-shot changes of weights."""

from lightning_unlearn.edits._base import Edit, EditRecord
from lightning_unlearn.edits._bucket_margin import BucketMargin
from lightning_unlearn.edits._corrupt import Corrupt
from lightning_unlearn.edits._dampen import Dampen, DampenUnlabelled
from lightning_unlearn.edits._distance import Distance, distance_to_retrained
from lightning_unlearn.edits._edited import Edited, edited
from lightning_unlearn.edits._negate_learned_vector import NegateLearnedVector
from lightning_unlearn.edits._negate_task_vector import NegateTaskVector
from lightning_unlearn.edits._newton_influence import NewtonInfluence
from lightning_unlearn.edits._one_step_ascent import OneStepAscent, SignAscent
from lightning_unlearn.edits._project_neurons import ProjectNeurons
from lightning_unlearn.edits._rep_select import RepSelect
from lightning_unlearn.edits._reset_neurons import ResetNeurons
from lightning_unlearn.edits._within_budget import WithinBudget

__all__ = [
    "BucketMargin",
    "Corrupt",
    "Dampen",
    "DampenUnlabelled",
    "Distance",
    "Edit",
    "EditRecord",
    "Edited",
    "NegateLearnedVector",
    "NegateTaskVector",
    "NewtonInfluence",
    "OneStepAscent",
    "ProjectNeurons",
    "RepSelect",
    "ResetNeurons",
    "SignAscent",
    "WithinBudget",
    "distance_to_retrained",
    "edited",
]
