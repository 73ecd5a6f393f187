"""The few keywords of JSON Schema that our schema uses, checked in another way than the schema is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KNOWN = {"$schema", "title", "type", "properties", "required", "additionalProperties", "$defs", "$ref", "anyOf", "enum"}
KNOWN |= {"const", "items", "prefixItems", "minItems"}
KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "report") -> Iterator[str]:
    """Where a value does not follow a schema."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "const" in schema and value != schema["const"]:
        yield f"{where} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is none of {schema['enum']}"
    if "anyOf" in schema and all(list(faults(value, each, root, where)) for each in schema["anyOf"]):
        yield f"{where} is nothing of what it may be"
    if "type" in schema and not is_kind(value, schema["type"]):
        yield f"{where} is no {schema['type']}"
    elif isinstance(value, dict):
        yield from _of_object(value, schema, root, where)
    elif isinstance(value, list):
        yield from _of_array(value, schema, root, where)


def is_kind(value: Any, kind: str) -> bool:
    # To Python, `True` is an integer; to JSON it is not.
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _of_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    yield from (f"{where} has no {name}" for name in schema.get("required", []) if name not in value)
    for name, item in value.items():
        rule = known.get(name, schema.get("additionalProperties", {}))
        if rule is False:
            yield f"{where} should have no {name}"
        elif rule is not True:
            yield from faults(item, rule, root, f"{where}.{name}")


def _of_array(value: list[Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> Iterator[str]:
    first = schema.get("prefixItems", [])
    if len(value) < schema.get("minItems", 0):
        yield f"{where} is too short"
    for place, item in enumerate(value):
        rule = first[place] if place < len(first) else schema.get("items", {})
        yield from faults(item, rule, root, f"{where}[{place}]")
