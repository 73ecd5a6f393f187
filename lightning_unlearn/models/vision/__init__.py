"""Small networks for images: classifiers, and an encoder before a language model."""

from lightning_unlearn.models.vision._image_causal_lm import ImageCausalLM
from lightning_unlearn.models.vision._patch_encoder import PatchEncoder
from lightning_unlearn.models.vision._resnet20 import ResNet20
from lightning_unlearn.models.vision._tiny_vit import TinyViT

__all__ = ["ImageCausalLM", "PatchEncoder", "ResNet20", "TinyViT"]
