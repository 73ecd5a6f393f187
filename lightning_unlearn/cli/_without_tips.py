from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lightning.pytorch

_LIGHTNING = Path(lightning.pytorch.__file__).parents[1]


@contextmanager
def without_tips() -> Iterator[None]:
    """Leave out what Lightning tells everybody: devices that are not there, products to install, where a fit stops.

    What it warns of is shown, and so is what we say ourselves, in its log.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # between Lightning and torch
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing. is deprecated")  # between PEFT and transformers
        for handler in {handler for logger in loggers for handler in logger.handlers}:
            handler.addFilter(_is_no_tip)
            stack.callback(handler.removeFilter, _is_no_tip)
        yield


def _is_no_tip(record: logging.LogRecord) -> bool:
    # By the file that said it: what goes through `rank_zero_info` is all of one logger, ours too.
    return record.levelno > logging.INFO or not Path(record.pathname).is_relative_to(_LIGHTNING)
