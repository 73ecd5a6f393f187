"""HTML that cannot be injected: text is escaped unless it was made here."""

from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str) -> Markup:
    """An HTML element around its children; children that are not markup are escaped.

    Args:
        name: The tag.
        children: Text or markup.
        attributes: A trailing or inner underscore stands for what Python cannot spell: ``class_``, ``data_label``.

    Example:
        >>> element("td", "<script>", class_="grey")
        '<td class="grey">&lt;script&gt;</td>'
    """
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: tuple[str, ...] | list[str], between: str = "") -> Markup:
    """Several pieces in a row; those that are not markup are escaped.

    Example:
        >>> join(["a < b", element("b", "c")], ", ")
        'a &lt; b, <b>c</b>'
    """
    return Markup(between.join(part if isinstance(part, Markup) else escape(part) for part in parts))
