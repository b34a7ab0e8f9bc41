"""What a workload cannot be."""


class WorkloadError(ValueError):
    """The options, a folder or a dataset do not make a workload; the message says why."""
