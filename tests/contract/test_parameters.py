"""The command line's `/set parameter` and the server agree on names and types."""

from __future__ import annotations

from donabe.cli.run_model.parameters import KINDS
from donabe.service.parameters import PARAMETERS

SAME = {"int": "integer", "float": "float32", "bool": "boolean", "text": "string", "texts": "array"}


def test_every_settable_parameter_is_one_of_the_server() -> None:
    assert {name: SAME[kind] for name, kind in KINDS.items()} == {name: PARAMETERS[name].kind for name in KINDS}
