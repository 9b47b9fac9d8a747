"""The processes of one training, started by torchrun or accelerate: launch, collectives, DDP and FSDP2.

Each rank takes its shard of every global batch, so plan, rates and batches are those of a single process, and the
gradient is that of the mean loss over the global batch; rank 0 keeps the record. May import `errors`, `host` and
`core`. Begin with `world.py`: the training loop knows the ranks only through `World`.
"""
