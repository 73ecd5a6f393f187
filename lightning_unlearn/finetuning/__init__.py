"""Teaching a network what it is to forget, and a second one that never knew, for demos and benchmarks."""

from lightning_unlearn.finetuning._finetune_first import FinetuneFirst

__all__ = ["FinetuneFirst"]
