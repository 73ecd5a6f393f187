"""What must stay, what must go, and how the two are paired."""

from lightning_unlearn.data._alternate import AlternateAnswerData, PairedAnswerDataset, RefusalData
from lightning_unlearn.data._beside import BesideData, BesideDataset, DecoupledData, ScopeData
from lightning_unlearn.data._bundled import bundled_path
from lightning_unlearn.data._encoding import load_tokenizer
from lightning_unlearn.data._loaders import in_order
from lightning_unlearn.data._pairing import Pairing, forget_order, retain_order
from lightning_unlearn.data._question_answer import QuestionAnswerData, QuestionAnswerDataset
from lightning_unlearn.data._source import Part, Source, build
from lightning_unlearn.data._spans import MarkedAnswer, SpanEncoding
from lightning_unlearn.data._split import ResumableLoader, SplitData
from lightning_unlearn.data._stream import ForgetStream, Order, shared_batches
from lightning_unlearn.data._traces import TraceData, TraceDataset

__all__ = [
    "AlternateAnswerData",
    "BesideData",
    "BesideDataset",
    "DecoupledData",
    "ForgetStream",
    "MarkedAnswer",
    "Order",
    "PairedAnswerDataset",
    "Pairing",
    "Part",
    "QuestionAnswerData",
    "QuestionAnswerDataset",
    "RefusalData",
    "ResumableLoader",
    "ScopeData",
    "Source",
    "SpanEncoding",
    "SplitData",
    "TraceData",
    "TraceDataset",
    "build",
    "bundled_path",
    "forget_order",
    "in_order",
    "load_tokenizer",
    "retain_order",
    "shared_batches",
]
