"""One-shot changes of weights."""

from lightning_unlearn.edits._base import Edit, EditRecord
from lightning_unlearn.edits._bucket_margin import BucketMargin
from lightning_unlearn.edits._corrupt import Corrupt
from lightning_unlearn.edits._negate_task_vector import NegateTaskVector
from lightning_unlearn.edits._rep_select import RepSelect
from lightning_unlearn.edits._within_budget import WithinBudget

__all__ = ["BucketMargin", "Corrupt", "Edit", "EditRecord", "NegateTaskVector", "RepSelect", "WithinBudget"]
