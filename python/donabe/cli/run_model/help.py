"""The help screens of the interactive run."""

from __future__ import annotations

from collections.abc import Sequence

_GENERAL = (
    ("/set", "Set session variables"),
    ("/show", "Show model information"),
    ("/list", "List models"),
    ("/load <model>", "Load another model"),
    ("/save <model>", "Save this session as a model"),
    ("/clear", "Forget the conversation"),
    ("/bye, /exit", "Leave"),
    ("/?, /help", "Help"),
    ("/? shortcuts", "Help for keyboard shortcuts"),
)
_SET = (
    ("/set parameter ...", "Set a parameter"),
    ("/set system <string>", "Set the system message"),
    ("/set history", "Keep a history of prompts"),
    ("/set nohistory", "Keep no history of prompts"),
    ("/set wordwrap", "Wrap words at the terminal's width"),
    ("/set nowordwrap", "Don't wrap words"),
    ("/set format json", "Answer in JSON"),
    ("/set noformat", "Answer in any form"),
    ("/set verbose", "Show timings"),
    ("/set quiet", "Show no timings"),
    ("/set think [level]", "Let the model think"),
    ("/set nothink", "Don't let the model think"),
)
_SHOW = (
    ("/show info", "Show details of the model"),
    ("/show license", "Show the model's license"),
    ("/show modelfile", "Show the Modelfile"),
    ("/show parameters", "Show parameters of the model and of this session"),
    ("/show system", "Show the system message"),
    ("/show template", "Show the prompt template"),
)
_PARAMETERS = (
    ("/set parameter seed <int>", "Random number seed"),
    ("/set parameter num_predict <int>", "Most tokens of an answer"),
    ("/set parameter top_k <int>", "Pick from this many tokens"),
    ("/set parameter top_p <float>", "Pick from tokens up to this sum of probabilities"),
    ("/set parameter min_p <float>", "Pick from tokens at least this likely, relative to the best"),
    ("/set parameter num_ctx <int>", "Tokens of context"),
    ("/set parameter temperature <float>", "Creativity, 0 always takes the most likely token"),
    ("/set parameter repeat_penalty <float>", "How strongly to avoid repetitions"),
    ("/set parameter repeat_last_n <int>", "How far back to look for repetitions"),
    ("/set parameter num_gpu <int>", "Layers to put on the GPU"),
    ("/set parameter stop <string> ...", "Texts that end an answer"),
)
_SHORTCUTS = (
    ("Ctrl + a / e", "Start / end of the line"),
    ("Alt + b / f", "One word back / forward"),
    ("Ctrl + k / u", "Delete to the end / start of the line"),
    ("Ctrl + w", "Delete the word before the cursor"),
    ("Ctrl + j", "New line without sending"),
    ("Ctrl + g", "Edit the prompt in an editor"),
    ("Ctrl + l", "Clear the screen"),
    ("Ctrl + c", "Stop the answer"),
    ("Ctrl + d", "Leave"),
)


def general_help(*, is_multimodal: bool) -> str:
    """The screen of `/?`."""
    text = _screen("Available Commands:", _GENERAL, 18)
    text += 'Use """ to begin a multi-line message.\n'
    if is_multimodal:
        text += "Use /path/to/file to include .jpg, .png, .webp images, or .wav audio files.\n"
    return text + "\n"


def topic_help(topic: str) -> str:
    """The screen of `/? topic`; empty for an unknown topic."""
    screens = {
        "set": ("Available Commands:", _SET, 25),
        "show": ("Available Commands:", _SHOW, 21),
        "parameter": ("Available Parameters:", _PARAMETERS, 40),
        "shortcut": ("Available keyboard shortcuts:", _SHORTCUTS, 22),
        "shortcuts": ("Available keyboard shortcuts:", _SHORTCUTS, 22),
    }
    return _screen(*screens[topic]) if topic in screens else ""


def _screen(title: str, rows: Sequence[tuple[str, str]], column: int) -> str:
    lines = "".join(f"  {name:<{column - 3}} {text}\n" for name, text in rows)
    return f"{title}\n{lines}\n"
