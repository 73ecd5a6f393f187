"""Everything a Trainer takes; those that are small live here."""

from lightning_unlearn.budgets import DisruptionBudget
from lightning_unlearn.callbacks._apply_edit import ApplyEdit
from lightning_unlearn.callbacks._attach import unlearning
from lightning_unlearn.callbacks._find_latent_targets import FindLatentTargets
from lightning_unlearn.callbacks._find_prototypes import FindPrototypes
from lightning_unlearn.callbacks._live_probe import LiveProbe
from lightning_unlearn.callbacks._lookahead_rate import LookaheadRate
from lightning_unlearn.callbacks._measure_importance import MeasureImportance
from lightning_unlearn.callbacks._oscillation_monitor import OscillationMonitor
from lightning_unlearn.callbacks._periodic_unlearn import PeriodicUnlearn
from lightning_unlearn.callbacks._refit_probe_directions import RefitProbeDirections
from lightning_unlearn.callbacks._refresh import Refresh
from lightning_unlearn.callbacks._repair_bursts import RepairBursts
from lightning_unlearn.callbacks._save_pretrained import SavePretrained
from lightning_unlearn.callbacks._show_progress import ShowProgress
from lightning_unlearn.callbacks._write_report import WriteReport
from lightning_unlearn.checks import RecoveryCheck
from lightning_unlearn.finetuning import FinetuneFirst
from lightning_unlearn.forgetting import BilevelUnlearn, PenalizedUnlearn, Unlearn
from lightning_unlearn.guards import SignGate, StepGuard, SubspaceGuard
from lightning_unlearn.transforms import GroupSparse, NeuralVariability, RegLoRA, StepTransform, TrainOnly

__all__ = [
    "ApplyEdit",
    "BilevelUnlearn",
    "DisruptionBudget",
    "FindLatentTargets",
    "FindPrototypes",
    "FinetuneFirst",
    "GroupSparse",
    "LiveProbe",
    "LookaheadRate",
    "MeasureImportance",
    "NeuralVariability",
    "OscillationMonitor",
    "PenalizedUnlearn",
    "PeriodicUnlearn",
    "RecoveryCheck",
    "RefitProbeDirections",
    "Refresh",
    "RegLoRA",
    "RepairBursts",
    "SavePretrained",
    "ShowProgress",
    "SignGate",
    "StepGuard",
    "StepTransform",
    "SubspaceGuard",
    "TrainOnly",
    "Unlearn",
    "WriteReport",
    "unlearning",
]
