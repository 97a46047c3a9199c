"""The CUDA 13 backend of donabe, which finds it by `plugin.json` and never imports this."""
