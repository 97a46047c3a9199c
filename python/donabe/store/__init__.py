"""Models on disk: names, manifests and blobs in the layout shared with Ollama, GGUF headers, and collections of other
programs that are read in place. Knows no network and no HTTP.
"""
