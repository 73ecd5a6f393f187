"""Benchmark sets, read from the files that were published."""

from lightning_unlearn.data.sets._cifar10_data import CIFAR10Data
from lightning_unlearn.data.sets._fictional_knowledge_data import FictionalKnowledgeData
from lightning_unlearn.data.sets._joined_records import JoinedRecords
from lightning_unlearn.data.sets._lume_data import LUMEData
from lightning_unlearn.data.sets._mnist_data import MNISTData
from lightning_unlearn.data.sets._muse_data import MUSEData
from lightning_unlearn.data.sets._pch_data import PCHData
from lightning_unlearn.data.sets._published_data import PublishedData
from lightning_unlearn.data.sets._published_files import PublishedFiles
from lightning_unlearn.data.sets._r_tofu_data import RTOFUData
from lightning_unlearn.data.sets._reduced import Reduced
from lightning_unlearn.data.sets._rwku_data import RWKUData
from lightning_unlearn.data.sets._some_entities import SomeEntities
from lightning_unlearn.data.sets._wmdp_data import WMDPData

__all__ = [
    "CIFAR10Data",
    "FictionalKnowledgeData",
    "JoinedRecords",
    "LUMEData",
    "MNISTData",
    "MUSEData",
    "PCHData",
    "PublishedData",
    "PublishedFiles",
    "RTOFUData",
    "RWKUData",
    "Reduced",
    "SomeEntities",
    "WMDPData",
]
