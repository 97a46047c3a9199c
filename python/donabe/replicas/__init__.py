"""Several copies of a model, run by Ray Serve, behind the ordinary server: `donabe serve --replicas N`.

The server starts its runners through `cluster` instead of as child processes; everything above the runner is the same.
Nothing here is imported unless replicas are asked for, and only then Ray (extra `[ray]`) is needed.
"""
