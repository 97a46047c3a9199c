"""The ROCm backend of donabe, which finds it by `plugin.json` and never imports this."""
