"""How long hypothesis looks: the same few examples in every run, or many new ones.

`make fuzz` does the latter.
"""

from hypothesis import settings

settings.register_profile(
    "bounded", max_examples=200, derandomize=True, deadline=None, database=None
)
settings.register_profile(
    "long",
    max_examples=2000,
    derandomize=False,
    deadline=None,
    database=None,
    print_blob=True,
)
settings.load_profile("bounded")
