"""Go templates: the language, the prompts made with it, and the answers of models prompted that way.

Pure functions and immutable values; knows nothing of models, tokens or files. See docs/templates.md.
"""

from donabe.template.bundled import BUNDLED, BundledTemplate
from donabe.template.capabilities import chat_template_capabilities, prefers_chat_template
from donabe.template.detect import detect_template
from donabe.template.limits import Limits
from donabe.template.render import collate, render_chat, render_generate
from donabe.template.template import GoTemplate, parse_template
from donabe.template.thinking_parser import ThinkingParser
from donabe.template.tool_parser import ToolParser

__all__ = [
    "BUNDLED",
    "BundledTemplate",
    "GoTemplate",
    "Limits",
    "ThinkingParser",
    "ToolParser",
    "chat_template_capabilities",
    "collate",
    "detect_template",
    "parse_template",
    "prefers_chat_template",
    "render_chat",
    "render_generate",
]
