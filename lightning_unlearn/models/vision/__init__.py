"""Small image classifiers."""

from lightning_unlearn.models.vision._resnet20 import ResNet20
from lightning_unlearn.models.vision._tiny_vit import TinyViT

__all__ = ["ResNet20", "TinyViT"]
