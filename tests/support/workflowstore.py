"""The contract of a job store: each promise is a test that takes an open, empty store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from anvil_workflow.stores.jobs import Ending, NewJob, QueueFullError, Store, new_job_id


def make_job(**words: Any) -> NewJob:
    return NewJob(new_job_id(), "digest", '{"a": "ü\\u0000"}', time.time(), **words)


def end(job: NewJob, fence: int, status: str = "completed", at: float | None = None) -> Ending:
    return Ending(job.id, fence, status, at or time.time(), '{"x": 1}', None, None, '{"at": []}')


async def a_job_is_kept_as_it_was_given(store: Store) -> None:
    job = make_job(key="k", request="r", callback_url="http://x/")
    assert await store.submit(job, "a", 10) is None
    kept = await store.get(job.id)
    assert kept is not None and (kept.status, kept.owner, kept.fence, kept.attempts) == ("running", "a", 1, 1)
    assert (kept.inputs, kept.key, kept.request, kept.callback_url) == (job.inputs, "k", "r", "http://x/")
    assert await store.get("0" * 32) is None


async def one_key_is_one_job(store: Store) -> None:
    jobs = [make_job(key="same", request="r") for _unused in range(50)]
    answers = await asyncio.gather(*(store.submit(job, "a", 100) for job in jobs))
    assert answers.count(None) == 1
    kept = jobs[answers.index(None)].id
    assert {answer.id for answer in answers if answer is not None} == {kept}
    found = await store.find_key("same")
    assert found is not None and found.id == kept


async def a_full_queue_refuses_jobs(store: Store) -> None:
    for _unused in range(3):
        await store.submit(make_job(), None, 3)
    with pytest.raises(QueueFullError):
        await store.submit(make_job(), None, 3)
    await store.submit(make_job(), "a", 3)
    assert await store.count() == {"pending": 3, "running": 1}


async def claims_do_not_overlap_and_keep_the_order(store: Store) -> None:
    jobs = [make_job() for _unused in range(30)]
    for job in jobs:
        await store.submit(job, None, 100)
    assert [job.id for job in await store.claim("a", 4)] == sorted(job.id for job in jobs)[:4]
    taken = await asyncio.gather(*(store.claim(f"r{number}", 10) for number in range(5)))
    ids = [job.id for some in taken for job in some]
    assert len(ids) == len(set(ids)) == 26
    assert await store.claim("late", 10) == []


async def an_old_fence_writes_nothing(store: Store) -> None:
    job = make_job()
    await store.submit(job, "a", 10)
    await store.release(job.id, 1)
    (taken,) = await store.claim("b", 1)
    assert taken.fence > 1
    assert await store.save(job.id, 1, "{}") is False
    assert await store.finish(end(job, 1)) is False
    assert await store.renew("a", [(job.id, 1)]) == {job.id}
    assert await store.renew("b", [(job.id, taken.fence)]) == set()
    assert await store.save(job.id, taken.fence, '{"p": 1}') is True
    assert await store.finish(end(job, taken.fence)) is True
    kept = await store.get(job.id)
    assert kept is not None and (kept.status, kept.outputs) == ("completed", '{"x": 1}')


async def many_writes_at_once_each_have_their_own_answer(store: Store) -> None:
    jobs = [make_job() for _unused in range(40)]
    await asyncio.gather(*(store.submit(job, "a", 10) for job in jobs))
    saved = await asyncio.gather(*(store.save(job.id, 1 + number % 2, f'{{"n": {number}}}') for number, job in enumerate(jobs)))
    assert saved == [number % 2 == 0 for number in range(40)]
    done = await asyncio.gather(*(store.finish(end(job, 1 + number % 3)) for number, job in enumerate(jobs)))
    assert done == [number % 3 == 0 for number in range(40)]


async def finishing_twice_is_finishing_once(store: Store) -> None:
    """A client repeats a write if it lost the answer."""
    job = make_job()
    await store.submit(job, "a", 10)
    assert await store.finish(end(job, 1)) and await store.finish(end(job, 1))
    assert await store.cancel(job.id) is False


async def a_cancelled_job_has_no_owner(store: Store) -> None:
    job, waiting = make_job(), make_job()
    await store.submit(job, "a", 10)
    await store.submit(waiting, None, 10)
    assert await store.cancel(job.id) and await store.cancel(waiting.id)
    assert await store.finish(end(job, 1)) is False
    assert await store.renew("a", [(job.id, 1)]) == {job.id}
    assert await store.claim("b", 10) == [] and await store.cancel(job.id) is False


async def only_ended_jobs_are_deleted(store: Store) -> None:
    job, old, new = make_job(), make_job(), make_job()
    for one in (job, old, new):
        await store.submit(one, "a", 10)
    assert await store.delete(job.id) is False
    await store.finish(end(old, 1, at=1000.0))
    await store.finish(end(new, 1))
    assert await store.purge(2000.0) == 1
    assert await store.get(old.id) is None and await store.delete(new.id) is True and await store.get(job.id) is not None


async def lists_go_page_by_page(store: Store) -> None:
    jobs = sorted((make_job() for _unused in range(5)), key=lambda job: job.id)
    for job in jobs:
        await store.submit(job, "a", 10)
    await store.finish(end(jobs[0], 1))
    assert [job.id for job in await store.list_jobs(None, None, 2)] == [jobs[4].id, jobs[3].id]
    assert [job.id for job in await store.list_jobs("running", jobs[3].id, 9)] == [jobs[2].id, jobs[1].id]
    assert [job.id for job in await store.list_jobs("completed", None, 9)] == [jobs[0].id]


async def a_list_leaves_out_what_may_be_large(store: Store) -> None:
    job, odd = make_job(), make_job()
    for one in (job, odd):
        await store.submit(one, "a", 10)
    text = json.dumps({"state": {"x": "y" * 1000}, "at": ["two"], "prompt_tokens": 3, "completion_tokens": 5, "retries": 1})
    assert await store.save(job.id, 1, text) and await store.save(odd.id, 1, '{"state": {"x": NaN}, "at": ["two"]}')
    found = {one.id: one for one in await store.list_jobs(None, None, 9)}
    shown = {"at": ["two"], "prompt_tokens": 3, "completion_tokens": 5, "retries": 1, "cost": None, "unknown_calls": None}
    assert json.loads(found[job.id].progress or "") == shown
    assert found[odd.id].progress is None and found[job.id].inputs == "" and found[job.id].created_at == job.created_at
    assert {one.inputs for one in await store.list_whole_jobs(9)} == {job.inputs}


async def one_runner_at_a_time_claims_a_callback(store: Store) -> None:
    job, silent = make_job(callback_url="http://x/"), make_job()
    for one in (job, silent):
        await store.submit(one, "a", 10)
        await store.finish(end(one, 1, at=10.0))
    taken = await asyncio.gather(*(store.claim_callbacks(20.0, 50.0, 9) for _unused in range(3)))
    assert [one.id for some in taken for one in some] == [job.id]
    await store.settle_callback(job.id, 30.0)
    (again,) = await store.claim_callbacks(40.0, 60.0, 9)
    assert again.callback_tries == 2
    await store.settle_callback(job.id, None)
    assert await store.claim_callbacks(1000.0, 2000.0, 9) == []


async def jobs_of_another_store_are_adopted_once(store: Store) -> None:
    """The store adopts its own jobs while a runner holds one of them."""
    ran, ended, due = make_job(key="k"), make_job(), make_job(callback_url="http://x/")
    for one in (ran, ended, due):
        await store.submit(one, "a", 10)
    for one in (ended, due):
        await store.finish(end(one, 1, at=10.0))
    jobs = await store.list_whole_jobs(10)
    assert await store.adopt(jobs) == 0
    await store.forget([job.id for job in jobs])
    assert await store.list_jobs(None, None, 10) == []
    assert await store.adopt(jobs) == 3
    assert not await store.save(ran.id, 1, "{}") and not await store.finish(end(ran, 1))
    (claimed,) = await store.claim("b", 10)
    assert (claimed.id, claimed.fence, claimed.attempts, claimed.key) == (ran.id, 3, 1, "k")
    assert await store.get(ended.id) == next(job for job in jobs if job.id == ended.id)
    assert [job.id for job in await store.claim_callbacks(20.0, 50.0, 9)] == [due.id]
    await store.forget([ended.id])
    assert await store.adopt([replace(job, key="k") for job in jobs if job.id == ended.id]) == 1
    assert [job.id for job in (await store.find_key("k"), await store.get(ended.id)) if job] == [ran.id, ended.id]


async def an_open_store_accepts_a_write(store: Store) -> None:
    await store.check()
    await store.flush()


def keep(promise: Callable[[Store], Awaitable[None]], store: Store) -> None:
    """Open a store, test one promise on it, and close it."""

    async def go() -> None:
        await store.open()
        try:
            await promise(store)
        finally:
            await store.close()

    asyncio.run(go())


PROMISES = [
    a_job_is_kept_as_it_was_given,
    one_key_is_one_job,
    a_full_queue_refuses_jobs,
    claims_do_not_overlap_and_keep_the_order,
    an_old_fence_writes_nothing,
    many_writes_at_once_each_have_their_own_answer,
    finishing_twice_is_finishing_once,
    a_cancelled_job_has_no_owner,
    only_ended_jobs_are_deleted,
    lists_go_page_by_page,
    a_list_leaves_out_what_may_be_large,
    one_runner_at_a_time_claims_a_callback,
    jobs_of_another_store_are_adopted_once,
    an_open_store_accepts_a_write,
]
