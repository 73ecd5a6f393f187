"""What must stay and what must go, and in which order they are visited."""

from lightning_unlearn.data._answer_overlap import answer_overlap
from lightning_unlearn.data._combined import one_loader
from lightning_unlearn.data._encoded_data import EncodedData
from lightning_unlearn.data._fact_split import FactSplit
from lightning_unlearn.data._first_batches import first_batches
from lightning_unlearn.data._forget_retain_data import ForgetRetainData
from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data._loaders import in_order, rows_of
from lightning_unlearn.data._paired_data import PairedData
from lightning_unlearn.data._paired_dataset import PairedDataset
from lightning_unlearn.data._probe import Probe, load_probe
from lightning_unlearn.data._question_answer_data import QuestionAnswerData
from lightning_unlearn.data._question_answer_dataset import QuestionAnswerDataset
from lightning_unlearn.data._resumable_loader import ResumableLoader
from lightning_unlearn.data._source import DataSource, OpenedSource, build, loader_of, sources_by_name
from lightning_unlearn.data._stream import ForgetStream, RowsByEpoch, empty_set, shared_batches
from lightning_unlearn.data._text_data import TextData
from lightning_unlearn.data._text_dataset import TextDataset
from lightning_unlearn.data._text_windows import Document, TextWindows
from lightning_unlearn.data._tofu_data import TOFUData
from lightning_unlearn.data._tofu_files import TOFUFiles
from lightning_unlearn.data._tofu_split import TOFUSplit
from lightning_unlearn.data.companions import (
    Alternates,
    Companion,
    ConcatenatedQuestion,
    DecoupledQuestion,
    Refusals,
    RewrittenTrace,
)
from lightning_unlearn.data.encodings import Encoding
from lightning_unlearn.data.orders import CyclicOrder, EpochRows, Order, RandomOrder, RowSet, SequentialOrder
from lightning_unlearn.data.records import (
    FileRecords,
    InMemoryRecords,
    MarkedAnswer,
    QuestionAnswer,
    Record,
    Records,
    StealthyForgetRequest,
    Turn,
)
from lightning_unlearn.data.relearning import (
    Levenshtein,
    RandomText,
    Related,
    Rephrased,
    SameShape,
    Similarity,
    SwappedAnswers,
    TfIdf,
)
from lightning_unlearn.data.vision import (
    AllBut,
    ClassMeans,
    IDXImages,
    ImageArchive,
    ImageData,
    Images,
    LabelledImages,
    MixedPrototypes,
    OfClasses,
    Pick,
    RandomPart,
)

__all__ = [
    "AllBut",
    "Alternates",
    "Companion",
    "ConcatenatedQuestion",
    "CyclicOrder",
    "DataSource",
    "DecoupledQuestion",
    "Document",
    "EncodedData",
    "Encoding",
    "EpochRows",
    "FactSplit",
    "FileRecords",
    "ForgetRetainData",
    "ForgetStream",
    "IDXImages",
    "ImageArchive",
    "ImageData",
    "Images",
    "InMemoryRecords",
    "LabelledImages",
    "Levenshtein",
    "LoaderSettings",
    "MarkedAnswer",
    "MixedPrototypes",
    "OfClasses",
    "OpenedSource",
    "Order",
    "PairedData",
    "PairedDataset",
    "Pick",
    "Probe",
    "ClassMeans",
    "QuestionAnswer",
    "QuestionAnswerData",
    "QuestionAnswerDataset",
    "RandomOrder",
    "RandomPart",
    "RandomText",
    "Record",
    "Records",
    "Refusals",
    "Related",
    "Rephrased",
    "ResumableLoader",
    "RewrittenTrace",
    "RowSet",
    "RowsByEpoch",
    "SameShape",
    "SequentialOrder",
    "Similarity",
    "StealthyForgetRequest",
    "SwappedAnswers",
    "TOFUData",
    "TOFUFiles",
    "TOFUSplit",
    "TextData",
    "TextDataset",
    "TextWindows",
    "TfIdf",
    "Turn",
    "answer_overlap",
    "build",
    "empty_set",
    "first_batches",
    "in_order",
    "load_probe",
    "loader_of",
    "one_loader",
    "rows_of",
    "shared_batches",
    "sources_by_name",
]
