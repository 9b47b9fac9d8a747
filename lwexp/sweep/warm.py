"""What the process that jobs are forked from imports once for all of them."""

import timm  # noqa: F401

import lwexp.experiment.job
import lwexp.models.build
import lwexp.plots.rates  # noqa: F401
