"""The rounds: each public coroutine function of a module here is one, named after it.

    async def spare_worker(month: Month) -> None:
        \"\"\"What is done, and what must come of it.\"\"\"

It is given a `tests.months.month.Month`: real servers whose long constants are short, an
installation of its own, dice by the seed. It fails by raising. What a round needs otherwise it says
with `@needs(…)` of `tests.months.registry`. A test that exists already becomes a round by a row in
`items.py`.
"""
