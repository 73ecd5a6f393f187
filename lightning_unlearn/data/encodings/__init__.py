"""How questions and answers become token ids."""

from lightning_unlearn.data.encodings._encoding import Encoding
from lightning_unlearn.data.encodings._padding import Batch, Collate, pad_right
from lightning_unlearn.data.encodings._tokenizer import load_tokenizer

__all__ = ["Batch", "Collate", "Encoding", "load_tokenizer", "pad_right"]
