"""Modelfiles: parse, check, write. Pure text work; `sources` alone looks at the file system.

See the Modelfile's grammar in `parser`, its meaning in `definition`.
"""

from donabe.modelfile.definition import ModelDefinition, define, read_modelfile
from donabe.modelfile.parameters import PARAMETERS, parse_parameter, parse_parameters
from donabe.modelfile.parser import Command, parse_commands, parse_modelfile
from donabe.modelfile.writer import quote_value, spec_commands, write_modelfile

__all__ = [
    "PARAMETERS",
    "Command",
    "ModelDefinition",
    "define",
    "parse_commands",
    "parse_modelfile",
    "parse_parameter",
    "parse_parameters",
    "quote_value",
    "read_modelfile",
    "spec_commands",
    "write_modelfile",
]
