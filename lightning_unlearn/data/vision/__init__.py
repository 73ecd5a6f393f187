"""Images with labels: where they come from, and which of them must go."""

from lightning_unlearn.data.vision._idx_images import IDXImages
from lightning_unlearn.data.vision._image_archive import ImageArchive
from lightning_unlearn.data.vision._image_data import ImageData
from lightning_unlearn.data.vision._images import Images, LabelledImages
from lightning_unlearn.data.vision._mixed_prototypes import ClassMeans, MixedPrototypes
from lightning_unlearn.data.vision._picks import AllBut, OfClasses, Pick, RandomPart

__all__ = [
    "AllBut",
    "IDXImages",
    "ImageArchive",
    "ImageData",
    "Images",
    "LabelledImages",
    "MixedPrototypes",
    "OfClasses",
    "Pick",
    "ClassMeans",
    "RandomPart",
]
