"""When things happen: the only code that knows the Trainer's hooks."""

from lightning_unlearn.callbacks._attach import unlearning
from lightning_unlearn.callbacks._isolation import isolated
from lightning_unlearn.callbacks._recovery_check import RecoveryCheck
from lightning_unlearn.callbacks._refusal_check import RefusalCheck
from lightning_unlearn.callbacks._save_pretrained import SavePretrained
from lightning_unlearn.callbacks._step_guard import StepGuard
from lightning_unlearn.callbacks._subspace_guard import SubspaceGuard
from lightning_unlearn.callbacks._teach import Teach
from lightning_unlearn.callbacks._unlearn import Unlearn
from lightning_unlearn.callbacks._write_report import WriteReport

__all__ = [
    "RecoveryCheck",
    "RefusalCheck",
    "SavePretrained",
    "StepGuard",
    "SubspaceGuard",
    "Teach",
    "Unlearn",
    "WriteReport",
    "isolated",
    "unlearning",
]
