"""The whole state of a training in files, from which it resumes exactly.

May import what `lwexp.training` may.
Start with `checkpointer.py`, which says when; `snapshot.py` says what, and `files.py` how it is written.
"""
