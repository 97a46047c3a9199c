"""Resident models: loading, sharing, keeping warm, evicting. Knows nothing of tokens, names or HTTP.

Runs on the server's event loop.
"""
