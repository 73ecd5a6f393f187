from __future__ import annotations

import sys

from lightning_unlearn.cli._main import main
from lightning_unlearn.cli._without_tips import without_tips


def quiet_fit(*arguments: str) -> None:
    """Run ``lightning-unlearn fit`` with ``arguments``, without the tips of Lightning."""
    # LightningCLI warns of arguments that are not the process's own.
    sys.argv[1:] = ["fit", *arguments]
    with without_tips():
        main()
