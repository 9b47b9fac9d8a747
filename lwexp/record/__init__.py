"""The record of a training: what it says of the plan, of every step's rates and of the end.

A run of lwexp (`training`, `experiment`) and `lwexp.track`, for a loop that is not lwexp's, use the same names, tags
and files, so that a reader of the store finds no difference. May import what stands below it: tracking, plots and the
core, nothing of a run's config. Begin with `track.py`, then read `live.py`.
"""
