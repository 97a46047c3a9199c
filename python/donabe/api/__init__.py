"""Dialects: native, OpenAI and Anthropic requests to the calls of the use cases, and their events back to bytes.

Pure translation. Knows nothing of sockets, status lines, the pool or models.
"""
