"""What must stay, what must go, and how the two are paired."""

from lightning_unlearn.data._alternate import AlternateAnswerData, PairedAnswerDataset, RefusalData
from lightning_unlearn.data._companion import CompanionData, CompanionDataset, DecoupledData, ScopeData
from lightning_unlearn.data._encoding import load_tokenizer
from lightning_unlearn.data._loaders import in_order
from lightning_unlearn.data._pairing import Pairing, forget_order, retain_order
from lightning_unlearn.data._question_answer import QuestionAnswerData, QuestionAnswerDataset
from lightning_unlearn.data._source import DataSource, OpenedSource, build, loader_of
from lightning_unlearn.data._spans import MarkedAnswer, SpanEncoding
from lightning_unlearn.data._split import ForgetRetainData, ResumableLoader
from lightning_unlearn.data._stream import ForgetStream, Order, shared_batches
from lightning_unlearn.data._traces import TraceData, TraceDataset

__all__ = [
    "AlternateAnswerData",
    "CompanionData",
    "CompanionDataset",
    "DecoupledData",
    "ForgetStream",
    "MarkedAnswer",
    "Order",
    "PairedAnswerDataset",
    "Pairing",
    "OpenedSource",
    "QuestionAnswerData",
    "QuestionAnswerDataset",
    "RefusalData",
    "ResumableLoader",
    "ScopeData",
    "DataSource",
    "SpanEncoding",
    "ForgetRetainData",
    "TraceData",
    "TraceDataset",
    "build",
    "forget_order",
    "in_order",
    "load_tokenizer",
    "loader_of",
    "retain_order",
    "shared_batches",
]
