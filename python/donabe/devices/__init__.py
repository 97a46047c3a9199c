"""Which devices there are, which are used and why: accelerator plug-ins, order of preference, hints on hardware."""
