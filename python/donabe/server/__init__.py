"""The HTTP server: the FastAPI app, guards, keys and limits, streaming, error tables, metrics.

Runs in the server process. Knows nothing of how models work.
"""
