from __future__ import annotations

import argparse
import re
import warnings
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from lightning_unlearn.cli._mixed_packages import way_out_of_mixing
from lightning_unlearn.cli._yaml import use_unique_keys

_MANY = 40
# jsonargparse tries every type of a union, and reports each that does not fit. These lines do not say what is wrong.
_NOISE = re.compile(
    r"^ *((- )?Does not validate against any of the Union subtypes|Subtypes:.*|Errors:|- Expected a <class 'NoneType'>"
    r"|Given value type:.*|Given value:.*)\n?|^ *\n",
    flags=re.MULTILINE,
)


class Help(DefaultHelpFormatter):  # type: ignore[misc]  # untyped
    """Help from docstrings, as plain text for a terminal."""

    @override
    def start_section(self, heading: str | None) -> None:
        super().start_section(None if heading is None else plain(heading))

    @override
    def _expand_help(self, action: argparse.Action) -> str:
        return plain(super()._expand_help(action))


class Parser(LightningArgumentParser):
    """LightningCLI's parser, with help and errors for people."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, "parser_mode": use_unique_keys(), **kwargs})

    @override
    def format_help(self) -> str:
        # jsonargparse lists each subclass that the process holds, also one whose module is gone, and warns of it.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*Hit failing import")
            text: str = super().format_help()
        return text

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the error message, without the lines about all other types that the value does not match."""
        advice = way_out_of_mixing(message) + _how_to_install(message)
        # A nested parser has given it already.
        super().error(_NOISE.sub("", message).rstrip() + ("" if advice.strip() in message else advice), ex)
        raise AssertionError  # not reached: the line above exits


def plain(text: str) -> str:
    r"""Take the markup out of ``text``, and long lists of classes.

    Example:
        >>> plain("Defaults to :class:`~lightning_unlearn.NPO`, ``beta=1``. (type: <class 'Objective'>)")
        'Defaults to `NPO`, `beta=1`. (type: Objective)'
    """
    # Sphinx roles become plain code: with `~` the last part of the name, else all of it.
    text = re.sub(r":\w+:`~[\w.]*?(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", text)
    text = re.sub(r"<class '([^']*)'>", r"\1", text).replace("``", "`")
    return re.sub(r"known subclasses: ([\w., ]+)", _shortened, text)


def _how_to_install(message: str) -> str:
    missing = "No module named 'torchjd'" in message
    return '\n`pip install "lightning-unlearn[torchjd]"` installs it.' if missing else ""


def _shortened(match: re.Match[str]) -> str:
    count = match[1].count(",") + 1
    return match[0] if count <= _MANY else f"known subclasses: {count}"
