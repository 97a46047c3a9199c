"""The SYCL backend of donabe, which finds it by `plugin.json` and never imports this."""
