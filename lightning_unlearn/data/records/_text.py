"""Bytes as text, and text as a document."""

from __future__ import annotations


def decoded(data: bytes, name: str) -> str:
    """Bytes of a file as text, without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`path` should be a readable UTF-8 text file. Found `path = {name!r}`: {error}. Save it as UTF-8."
        ) from error


def document(text: str, name: str) -> list[dict[str, str]]:
    """A document is one row: its ``text``, and the name of its ``file``. Line ends are those of Python."""
    return [{"text": text.replace("\r\n", "\n").replace("\r", "\n"), "file": name}]
