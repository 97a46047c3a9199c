"""`python -m donabe` is the `donabe` command."""

from __future__ import annotations

from donabe.cli import main

if __name__ == "__main__":
    main()
