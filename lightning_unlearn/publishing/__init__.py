"""After the fit: a folder with weights, tokenizer and model card, and its way to the Hugging Face Hub."""

from lightning_unlearn.publishing._card import write_card
from lightning_unlearn.publishing._push import push
from lightning_unlearn.publishing._release import Release, prepare

__all__ = ["Release", "prepare", "push", "write_card"]
