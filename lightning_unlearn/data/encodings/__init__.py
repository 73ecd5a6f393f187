"""How questions and answers become token ids."""

from lightning_unlearn.data.encodings._encode_rows import encode_rows
from lightning_unlearn.data.encodings._encoding import Encoding
from lightning_unlearn.data.encodings._image_encoding import ImageEncoding
from lightning_unlearn.data.encodings._padding import Batch, Collate, pad_right
from lightning_unlearn.data.encodings._usual_encoding import usual_encoding

__all__ = ["Batch", "Collate", "Encoding", "ImageEncoding", "encode_rows", "pad_right", "usual_encoding"]
