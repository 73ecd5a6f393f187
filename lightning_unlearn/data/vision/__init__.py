"""Images with labels: where they come from, and which of them must go."""

from lightning_unlearn.data.vision._cifar_batches import CIFARBatches
from lightning_unlearn.data.vision._idx_images import IDXImages
from lightning_unlearn.data.vision._image_archive import ImageArchive
from lightning_unlearn.data.vision._image_data import ImageData
from lightning_unlearn.data.vision._image_dataset import ImageDataset
from lightning_unlearn.data.vision._images import Images, LabelledImages
from lightning_unlearn.data.vision._mixed_prototypes import ClassMeans, MixedPrototypes
from lightning_unlearn.data.vision._picked import Picked
from lightning_unlearn.data.vision._picks import AllBut, LastOfEach, OfClasses, Pick, RandomPart

__all__ = [
    "AllBut",
    "CIFARBatches",
    "ClassMeans",
    "IDXImages",
    "ImageArchive",
    "ImageData",
    "ImageDataset",
    "Images",
    "LabelledImages",
    "LastOfEach",
    "MixedPrototypes",
    "OfClasses",
    "Pick",
    "Picked",
    "RandomPart",
]
