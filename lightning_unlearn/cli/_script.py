from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

import lightning_unlearn
from lightning_unlearn.cli._audit_command import run_audit
from lightning_unlearn.cli._benchmarks_command import run_benchmarks
from lightning_unlearn.cli._compare_command import run_compare
from lightning_unlearn.cli._configs_command import show_configs
from lightning_unlearn.cli._demo_command import run_demo
from lightning_unlearn.cli._edit_command import run_edit
from lightning_unlearn.cli._forget_command import run_forget
from lightning_unlearn.cli._lint_command import run_lint
from lightning_unlearn.cli._main import main
from lightning_unlearn.cli._push_command import run_push
from lightning_unlearn.cli._requests_command import run_requests
from lightning_unlearn.cli._unwritable import unwritable
from lightning_unlearn.functional.text import visible
from lightning_unlearn_command import answer

# LightningCLI's subcommands are methods of the trainer, and these need no trainer of the user's.
_OWN_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "audit": run_audit,
    "benchmarks": run_benchmarks,
    "compare": run_compare,
    "configs": show_configs,
    "demo": run_demo,
    "edit": run_edit,
    "forget": run_forget,
    "lint": run_lint,
    "push": run_push,
    "requests": run_requests,
}
_PACKAGE = Path(str(lightning_unlearn.__file__)).parent


def script() -> None:
    """The command ``lightning-unlearn``. Errors meant for the user are one message, without a traceback."""
    said = answer(sys.argv[1:])
    if said is not None:
        sys.stdout.write(said)
        sys.exit(0)
    try:
        own = _OWN_COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
        main() if own is None else own(sys.argv[2:])
    except Exception as error:
        meant = unwritable(error) or _meant_for_user(error)
        if meant is None or os.environ.get("LIGHTNING_UNLEARN_TRACEBACK"):
            raise
        # What a file from elsewhere holds may be quoted in it.
        message = visible(str(meant.args[0] if meant.args else meant), keep="\n")
        sys.exit(f"{type(meant).__name__}: {message}\n(LIGHTNING_UNLEARN_TRACEBACK=1 shows where this was raised.)")


def _meant_for_user(error: BaseException | None) -> BaseException | None:
    """The error that this package or Lightning raised with a message for the user; ``None`` if there is none."""
    while error is not None:
        *_, last = traceback.extract_tb(error.__traceback__)
        # A `raise` in our code is a message we wrote. An error that comes out of another statement of ours is a bug.
        ours = _PACKAGE in Path(last.filename).parents and (last.line or "").startswith("raise ")
        # A package that says which command installs what it lacks, as TorchJD's weightings do.
        names_command = isinstance(error, ImportError) and "pip install" in str(error)
        if ours or names_command or isinstance(error, MisconfigurationException):
            return error
        error = error.__cause__  # the parser raises another error from that of a constructor
    return None
