"""The CUDA 12 backend of donabe, which finds it by `plugin.json` and never imports this."""
