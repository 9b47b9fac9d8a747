"""What every run needs and takes seconds to import: for a process from which the processes of many runs are forked."""

MODULES = (
    "timm", "lwexp.experiment.job", "lwexp.models.build", "lwexp.plots.rates", "lwexp.plots.confusion",
    "lwexp.plots.mistakes", "lwexp.plots.outputs",
)  # fmt: skip
