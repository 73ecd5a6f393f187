"""One-shot changes of weights."""

from lightning_unlearn.edits._base import Edit, EditRecord
from lightning_unlearn.edits._bucket_margin import BucketMargin
from lightning_unlearn.edits._negate_task_vector import NegateTaskVector

__all__ = ["BucketMargin", "Edit", "EditRecord", "NegateTaskVector"]
