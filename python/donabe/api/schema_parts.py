"""Pieces JSON Schemas are made of. Ranges come from the tables of `service.parameters`."""

from __future__ import annotations

import math

from donabe.service.parameters import BOUNDS, MAX_TEXT_CHARS, PARAMETERS, Parameter
from donabe.types import JsonObject

STRING: JsonObject = {"type": "string"}
BOOLEAN: JsonObject = {"type": "boolean"}
INTEGER: JsonObject = {"type": "integer"}
NUMBER: JsonObject = {"type": "number"}
OBJECT: JsonObject = {"type": "object"}
COUNT: JsonObject = {"type": "integer", "minimum": 0}
STRINGS: JsonObject = {"type": "array", "items": STRING}
_TYPES = {
    "integer": "integer",
    "float32": "number",
    "boolean": "boolean",
    "string": "string",
    "array": "array",
    "map": "object",
}


def nullable(schema: JsonObject) -> JsonObject:
    return {"anyOf": [schema, {"type": "null"}]}


def array_of(items: JsonObject, bound: str = "", **limits: int) -> JsonObject:
    """A list; `bound` names how many items it may hold."""
    if bound:
        limits["maxItems"] = BOUNDS[bound].high
    return {"type": "array", "items": items, **limits}


def one_of(*schemas: JsonObject) -> JsonObject:
    return {"anyOf": list(schemas)}


def enum(*values: object) -> JsonObject:
    return {"enum": list(values)}


def obj(required: str = "", /, **properties: JsonObject) -> JsonObject:
    """An object; `required` lists names separated by blanks."""
    schema: JsonObject = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    return schema


def bounded(name: str, *, low: int | None = None) -> JsonObject:
    """An integer in its range of `BOUNDS`."""
    bound = BOUNDS[name]
    return {"type": "integer", "minimum": bound.low if low is None else low, "maximum": bound.high}


def ref(name: str) -> JsonObject:
    return {"$ref": f"#/components/schemas/{name}"}


def parameter_schema(parameter: Parameter) -> JsonObject:
    """Type and range of one option."""
    kind = _TYPES[parameter.kind]
    schema: JsonObject = {"type": kind}
    if kind == "string":
        return {**schema, "enum": list(parameter.choices)}
    if kind == "array":
        items = {"type": "string", "maxLength": MAX_TEXT_CHARS}
        return {**schema, "items": items, "maxItems": int(parameter.high)}
    if kind == "object":
        bias = {"type": "number", "minimum": -100, "maximum": 100}
        return {
            **schema,
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": bias,
            "maxProperties": int(parameter.high),
        }
    if math.isfinite(parameter.low):
        schema |= {"minimum": _whole(parameter.low), "maximum": _whole(parameter.high)}
    return schema


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def option(name: str) -> JsonObject:
    return parameter_schema(PARAMETERS[name])
