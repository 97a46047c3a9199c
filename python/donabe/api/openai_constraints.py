"""The OpenAI dialect: what an answer must look like, under the names of OpenAI, vLLM and llama.cpp. Pure functions."""

from __future__ import annotations

from collections.abc import Callable

from donabe.api.body import Fields, refuse
from donabe.errors import InvalidRequestError
from donabe.service.parameters import check_count
from donabe.types import Constraint

SCHEMA_FIELDS = ("name", "description", "schema", "strict")


def decode_constraint(fields: Fields) -> Constraint:
    """`response_format`, or what other servers call it; two of them exclude each other."""
    refuse(fields, "guided_regex", hint="use guided_json or grammar")
    readers: dict[str, Callable[[Fields, str], Constraint]] = {
        "response_format": lambda fields, _name: decode_response_format(fields),
        "guided_json": _schema,
        "json_schema": _schema,
        "guided_grammar": _grammar,
        "grammar": _grammar,
        "guided_choice": _choice,
    }
    free = Constraint()
    found = [(name, constraint) for name, read in readers.items() if (constraint := read(fields, name)) != free]
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise InvalidRequestError(f"{names} exclude each other", field=found[1][0], hint="send one of them")
    return found[0][1] if found else free


def _schema(fields: Fields, name: str) -> Constraint:
    schema = fields.take(name)
    if schema is None:
        return Constraint()
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{name} must be a JSON Schema object", field=name)
    return Constraint(json_schema=schema)


def _grammar(fields: Fields, name: str) -> Constraint:
    grammar = fields.take(name)
    if grammar is None or grammar == "":
        return Constraint()
    if not isinstance(grammar, str):
        raise InvalidRequestError(f"{name} must be a string", field=name)
    return Constraint(grammar=grammar)


def _choice(fields: Fields, name: str) -> Constraint:
    choices = fields.strings(name)
    check_count("choices", len(choices), field=name)
    return Constraint(grammar="root ::= " + " | ".join(map(_gbnf_literal, choices))) if choices else Constraint()


def _gbnf_literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def decode_response_format(fields: Fields) -> Constraint:
    """`response_format`: text, json_object or json_schema."""
    value = fields.take("response_format")
    if value is None:
        return Constraint()
    if not isinstance(value, dict):
        raise InvalidRequestError("response_format must be an object with a type", field="response_format")
    fields.report("response_format", value, "type", "schema", "json_schema", "grammar")
    fields.report("response_format.json_schema", value.get("json_schema"), *SCHEMA_FIELDS)
    kind = str(value.get("type") or "text").strip().lower()
    if kind == "text":
        return Constraint()
    if kind == "json_object":
        schema = value.get("schema")  # as some servers take it
        return Constraint(json_schema=schema) if isinstance(schema, dict) else Constraint(json_object=True)
    if kind == "json_schema":
        holder = value.get("json_schema")
        schema = holder.get("schema") if isinstance(holder, dict) else value.get("schema")
        if not isinstance(schema, dict):
            raise InvalidRequestError(
                "response_format.json_schema.schema must be an object",
                field="response_format.json_schema.schema",
                hint="for any JSON object use the type json_object",
            )
        return Constraint(json_schema=schema)
    if kind == "grammar" and isinstance(value.get("grammar"), str):
        return Constraint(grammar=value["grammar"])
    raise InvalidRequestError(
        f"response_format.type {kind!r} is not known",
        field="response_format.type",
        hint="use text, json_object or json_schema",
    )
