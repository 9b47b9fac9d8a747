"""What the process that jobs are forked from imports once for all of them."""

import timm  # noqa: F401

import lwexp.job
import lwexp.models
import lwexp.plots  # noqa: F401
