"""YAML in which every key stands once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

MODE = "yaml_without_duplicates"
"""The parser's mode, in which it reads configurations, the files they name, and values from the shell."""


def use_unique_keys() -> str:
    """Make :data:`MODE` known to jsonargparse, and return it. Other parsers in the process read as before."""
    set_loader(MODE, load_yaml, exceptions=(yaml.YAMLError,))
    return MODE


def load_yaml(text: str) -> Any:
    r"""Read YAML as the parser does, and refuse a key that stands twice.

    Raises:
        yaml.YAMLError: If it is no YAML, or a mapping has the same key twice. PyYAML would keep the last without a word.

    Example:
        >>> load_yaml("lr: 1e-3")
        {'lr': 0.001}
        >>> load_yaml("lr: 1\nlr: 2")
        Traceback (most recent call last):
        yaml.error.YAMLError: Each key should stand once in a mapping. Found `lr` in lines 1 and 2. Leave one out.
    """
    for node in _mappings(yaml.compose(text, Loader=yaml.SafeLoader)):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(
                    f"Each key should stand once in a mapping. Found `{key.value}` in lines {lines[key.value]} and {line}. "
                    "Leave one out."
                )
            lines[str(key.value)] = line
    # The parser's own loader, since plain YAML reads `1e-3` as a string.
    return get_loader("yaml")(text)


def dump_yaml(settings: Any, *, allow_unicode: bool = False) -> str:
    r"""Write YAML that :func:`load_yaml` reads back as it was.

    Example:
        >>> dump_yaml({"lr": 1e-3, "name": "1e3"})
        "lr: 0.001\nname: '1e3'\n"
    """
    text: str = yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # untyped
    """Quotes texts such as `1e3`: numbers to the parser's loader, and none to plain YAML."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _text)


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Every mapping, once: an alias is the same node again, and may hold itself."""
    seen: set[int] = set()
    left = [] if root is None else [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            left += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
