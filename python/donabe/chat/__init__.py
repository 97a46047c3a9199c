"""Prompts and answers: messages and templates to tokens, output text to content, thinking and tool calls.

Runs in the runner's intake and output threads, never in the engine's. Knows nothing of scheduling or HTTP dialects.
"""
