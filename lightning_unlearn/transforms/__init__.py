"""What rewrites the forget gradient, before it is merged with the retain gradient."""

from lightning_unlearn.transforms._gradient_transform import GradientTransform
from lightning_unlearn.transforms._row_mask import RowMask

__all__ = ["GradientTransform", "RowMask"]
