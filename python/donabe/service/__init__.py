"""Use cases: chat, generate, embed, rerank, and managing models. Resolves a name, leases a runner, hands out events.

Knows nothing of HTTP. Runs on the server's event loop; blocking store calls go to worker threads.
"""
