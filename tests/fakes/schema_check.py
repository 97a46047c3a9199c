"""Checks a value against one of our JSON Schemas, more strictly than the standard: members nobody listed are errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "number": (int, float),
    "integer": int,
    "array": list,
    "object": dict,
    "null": type(None),
}


def problems(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any], place: str = "") -> list[str]:
    """What is wrong with the value; nothing when it is as the schema says."""
    if "$ref" in schema:
        return problems(value, schemas[schema["$ref"].rpartition("/")[2]], schemas, place)
    if "anyOf" in schema:
        found = [problems(value, choice, schemas, place) for choice in schema["anyOf"]]
        return min(found, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{place} is {value!r}, not one of {schema['enum']}"]
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{place} is {value!r}, not a {kind}"]
    if "minimum" in schema and value < schema["minimum"]:
        return [f"{place} is {value}, less than {schema['minimum']}"]
    if kind == "array":
        items = schema.get("items", {})
        return [text for i, item in enumerate(value) for text in problems(item, items, schemas, f"{place}[{i}]")]
    return _object_problems(value, schema, schemas, place) if kind == "object" else []


def _object_problems(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any], place: str) -> list[str]:
    if "properties" not in schema and not isinstance(schema.get("additionalProperties"), dict):
        return []
    known, others = schema.get("properties", {}), schema.get("additionalProperties", False)
    found = [f"{place}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        if name in known:
            found += problems(item, known[name], schemas, f"{place}.{name}")
        elif isinstance(others, dict):
            found += problems(item, others, schemas, f"{place}.{name}")
        elif not others:
            found.append(f"{place}.{name} is not in the schema")
    return found
