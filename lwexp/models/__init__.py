"""Networks built from the config's model section, and weights published with them or read from files.

May import `errors`, `formatting`, `core`, `config` and `data`; timm, torchvision and transformers only here, in `data`
and in `config/hub.py`. Begin with `build.py` (`build_model`); each source in `sources.py` makes a `Blueprint`.
"""
