"""Where questions and answers come from."""

from lightning_unlearn.data.records._file_records import FileRecords
from lightning_unlearn.data.records._in_memory_records import InMemoryRecords
from lightning_unlearn.data.records._picture import Picture
from lightning_unlearn.data.records._record import MarkedAnswer, QuestionAnswer, Record, Turn
from lightning_unlearn.data.records._records import Records
from lightning_unlearn.data.records._stealthy_forget_request import StealthyForgetRequest

__all__ = [
    "FileRecords",
    "InMemoryRecords",
    "MarkedAnswer",
    "Picture",
    "QuestionAnswer",
    "Record",
    "Records",
    "StealthyForgetRequest",
    "Turn",
]
