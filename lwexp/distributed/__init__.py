"""One training on several processes, which torchrun or accelerate starts.

Each process takes its part of each global batch, so that plan, rates and batches are those of a single process, and
the gradient is that of the mean loss over the whole batch. The first process keeps the record for all.
"""
