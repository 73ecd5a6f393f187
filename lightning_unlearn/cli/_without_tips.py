from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lightning

_FOLDER = str(Path(lightning.__file__).parent)
_LOGGERS = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def without_tips() -> Iterator[None]:
    """Leave out what Lightning tells everybody: devices that are not there, products to install, where a fit stops.

    What it warns of is shown, and so is what we say ourselves, in its log.
    """
    handlers = {handler for name in _LOGGERS for handler in logging.getLogger(name).handlers}
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # between Lightning and torch
        for handler in handlers:
            handler.addFilter(_is_no_tip)
            stack.callback(handler.removeFilter, _is_no_tip)
        yield


def _is_no_tip(record: logging.LogRecord) -> bool:
    # The file that asked for it: under `rank_zero_info`, all have one logger.
    return record.levelno > logging.INFO or not record.pathname.startswith(_FOLDER)
