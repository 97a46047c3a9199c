"""What `donabe run` is made of: one answer (`once`), the interactive session, and how both print."""
