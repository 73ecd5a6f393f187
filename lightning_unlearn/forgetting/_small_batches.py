from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_batches_explained() -> Iterator[None]:
    """Say what to do about a forget micro-batch that is too small for BatchNorm.

    Raises:
        ValueError: In place of torch's own error for a batch of one example.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "A forget batch should hold at least two examples where a norm in training mode uses the statistics of the "
            f"batch. Found one that is too small: {error}. Use `drop_last=True` in the forget loader, or a batch size that "
            "leaves no single example over. Or put the norms in evaluation mode: "
            "`for m in self.modules(): isinstance(m, nn.BatchNorm1d) and m.eval()` in `on_train_epoch_start`."
        ) from error
