"""Memory for frames in parts: it is bounded, and nobody waits for ever."""

from __future__ import annotations

import asyncio

from streamdgp_server.part_budget import PartBudget


def test_the_stream_that_began_first_goes_on_and_others_wait_for_it() -> None:
    async def work() -> None:
        budget = PartBudget(10)
        await budget.take("first", 6)
        await budget.take("second", 4)
        second = asyncio.create_task(budget.take("second", 1))
        third = asyncio.create_task(budget.take("third", 1))
        await asyncio.sleep(0)
        assert not second.done()
        assert not third.done()
        await budget.take("first", 60)  # or all three would wait for one another
        budget.give_back("first")
        await asyncio.gather(second, third)

    asyncio.run(asyncio.wait_for(work(), 10))


def test_who_leaves_while_waiting_takes_nothing() -> None:
    async def work() -> None:
        budget = PartBudget(10)
        await budget.take("first", 10)
        second = asyncio.create_task(budget.take("second", 10))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        budget.give_back("second")
        budget.give_back("first")
        await budget.take("third", 9)
        await budget.take("fourth", 1)

    asyncio.run(asyncio.wait_for(work(), 10))
