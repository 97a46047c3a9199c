"""Scheduling over one native context: schedule -> decode_and_sample -> update. Import the submodules; see api.py."""
