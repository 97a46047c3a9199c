"""Making model files from model files: quantising, merging split sets, editing metadata.

Native work runs in a child process of its own, one per job; the rest is file copying. Knows nothing of the store's
names.
"""
