"""One module per command. A command parses and prints; the client talks to the server."""
