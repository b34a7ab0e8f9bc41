"""Why a run cannot be made or has come to nothing."""


class BenchError(Exception):
    """Its message is for the user."""
