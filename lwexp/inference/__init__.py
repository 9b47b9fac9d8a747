"""A finished run in use: its network, the way from an image or a text to the input, its classes; predictions, exports.

`load(run)` rebuilds the network from the run's record and its safetensors file; no code of the run's folder is executed
and nothing is unpickled. May import errors, formatting, host, config, data, models, tracking, training
and experiment. Begin with
`loaded.py`.
"""
