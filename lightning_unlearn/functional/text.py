"""Text from elsewhere, made harmless to show."""

import unicodedata

_INERT = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Persian, Indic scripts and emoji need these two joiners; they reorder nothing.
_JOINERS = ("\u200c", "\u200d")


def visible(text: str, keep: str = "") -> str:
    r"""Write characters as escapes that a terminal or a page would obey: control characters, line ends, bidi overrides.

    A name in a file from elsewhere could otherwise move the cursor, hide what follows, or forge a line of a table.

    Args:
        text: Any text.
        keep: Characters to leave alone, such as a line end where lines are meant.

    Example:
        >>> visible("int4\x1b[2J\nrelearn")
        'int4\\x1b[2J\\nrelearn'
    """
    return "".join(_escaped(c) if unicodedata.category(c) in _INERT and c not in keep else c for c in text)


def _escaped(character: str) -> str:
    return character if character in _JOINERS else character.encode("unicode_escape").decode()
