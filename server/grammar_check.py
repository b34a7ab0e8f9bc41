"""Placeholder of the lead: replaced by the helper who owns this file."""


class GrammarChecker:
    def __init__(self, *a, **k):
        pass

    async def check(self, grammar):
        pass

    async def close(self):
        pass
