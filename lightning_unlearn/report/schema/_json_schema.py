"""The JSON Schema of ``report.json``, read from the dataclasses that it is made of."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning_unlearn.report.schema._json import NOT_FINITE

SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
"""The schema as a file, for those who read reports in other languages."""

_NUMBER = {"anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}]}
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: _NUMBER,
    NoneType: {"type": "null"},
    Any: {},
}


def schema_of(root: type, version: int) -> dict[str, Any]:
    """The schema (draft 2020-12) of a dataclass's JSON. Every field is required, and there are no others.

    Args:
        root: The dataclass of the whole report.
        version: The only ``schema_version`` that is allowed.

    Example:
        >>> from lightning_unlearn.report.schema import Interval
        >>> schema_of(Interval, 5)["properties"]["unbounded"]
        {'type': 'boolean'}
    """
    found: dict[str, dict[str, Any]] = {}
    schema = _of_class(root, found)
    if "schema_version" in schema["properties"]:
        schema["properties"]["schema_version"] = {"const": version}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{root.__name__}, version {version}",
        **schema,
        "$defs": dict(sorted(found.items())),
    }


def _of_class(kind: type, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties = {part.name: _of(hints[part.name], found) for part in fields(kind)}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _of(hint: Any, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if is_dataclass(hint):
        return _reference(hint, found)
    return _of_generic(get_origin(hint), get_args(hint), found)


def _reference(kind: Any, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if kind.__name__ not in found:
        found[kind.__name__] = {}  # before its fields: one of them may be of the same kind
        found[kind.__name__] = _of_class(kind, found)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _of_generic(origin: Any, arguments: tuple[Any, ...], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (UnionType, Union):
        return {"anyOf": [_of(each, found) for each in arguments]}
    if origin is list:
        return {"type": "array", "items": _of(arguments[0], found)}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_of(each, found) for each in arguments], "minItems": len(arguments)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], found)}
    raise TypeError(f"A field of a report should be of a kind that JSON has. Found `{origin}[{arguments}]`.")
