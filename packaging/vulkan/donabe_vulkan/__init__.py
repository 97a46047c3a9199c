"""The Vulkan backend of donabe: `plugin.json` says what it fits, `lib/` holds it. donabe reads both without importing this."""
