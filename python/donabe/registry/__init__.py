"""Where models come from: sources, downloads, the bundled catalogue. Writes into `store`; knows nothing of HTTP
serving.
"""
