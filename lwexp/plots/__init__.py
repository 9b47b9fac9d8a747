"""Plots of a plan's rates as PNG files and one interactive page, the axes that other plots share, and evaluations.

It imports matplotlib, numpy and `lwexp.core`, and knows no configs or runs. Start at `plan.py`, which makes a
`RateTable` of a plan; `rates.py` draws it, `figure.py` for a notebook, `html.py` makes the page, `process.py` runs both
in a subprocess. The pictures of an evaluation (`confusion.py`, `mistakes.py`, `outputs.py`) are drawn by Pillow.
"""
