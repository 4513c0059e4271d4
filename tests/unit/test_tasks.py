import asyncio

from jetmem.tasks import end


def test_a_task_that_misses_its_cancellation_is_asked_again():
    async def body():
        missed = 0

        async def deaf():
            nonlocal missed
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    missed += 1
                    if missed > 1:
                        raise

        task = asyncio.create_task(deaf())
        await asyncio.sleep(0)
        await end(task)
        assert task.cancelled()
        assert missed == 2

    asyncio.run(body())


def test_what_had_failed_or_ended_is_no_trouble():
    async def body():
        async def fails():
            raise ValueError("no")

        tasks = [asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(0))]
        await asyncio.sleep(0)
        await end(*tasks)
        assert all(task.done() for task in tasks)
        await end()

    asyncio.run(body())
