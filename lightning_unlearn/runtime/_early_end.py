"""What ended a run before its time."""

from __future__ import annotations

import signal


def ended_by(exception: BaseException) -> str:
    """What ended the run, in words for the report.

    Example:
        >>> ended_by(KeyboardInterrupt()), ended_by(ValueError("no data"))
        ('Ctrl-C', 'ValueError: no data')
    """
    if _is_sigterm(exception):
        return "SIGTERM"
    if isinstance(exception, KeyboardInterrupt):
        return "Ctrl-C"
    return f"{type(exception).__name__}: {exception}".removesuffix(": ")


def exit_as_terminated(exception: BaseException) -> None:
    """Let a process that SIGTERM ended exit with 143, as the shell would say: Lightning's exception alone means success."""
    if _is_sigterm(exception) and isinstance(exception, SystemExit) and exception.code is None:
        exception.code = 128 + signal.SIGTERM


def _is_sigterm(exception: BaseException) -> bool:
    return type(exception).__name__ == "SIGTERMException"  # `lightning` and `pytorch_lightning` have one each
