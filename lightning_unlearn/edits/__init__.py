"""One-shot changes of weights."""

from lightning_unlearn.edits._base import Edit, EditRecord
from lightning_unlearn.edits._negate_task_vector import NegateTaskVector

__all__ = ["Edit", "EditRecord", "NegateTaskVector"]
