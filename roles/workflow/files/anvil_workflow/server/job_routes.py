# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes of jobs: status, list, cancel, delete."""

from __future__ import annotations

import re

from fastapi import FastAPI, Request, Response

from anvil_workflow.runner.job_runner import JobRunner
from anvil_workflow.runner.job_view import describe_job
from anvil_workflow.server.responses import JsonAnswer, refuse
from anvil_workflow.stores.jobs import ENDED, STATUSES, Job

JOB_ID = re.compile(r"[0-9a-f]{32}")


def add_job_routes(app: FastAPI, runner: JobRunner) -> None:
    store = runner.store

    async def find(job_id: str) -> Job | None:
        return await store.get(job_id) if JOB_ID.fullmatch(job_id) else None

    def missing() -> JsonAnswer:
        return refuse(404, "job", "there is no job with this id; ended jobs are deleted after WORKFLOW_JOB_TTL seconds")

    @app.get("/status/{job_id}")
    async def status(job_id: str) -> Response:
        job = await find(job_id)
        if job is None:
            return missing()
        running = runner.running.get(job_id)
        at = running.progress.at if running is not None and running.progress is not None else None
        headers = {} if job.status in ENDED else {"Retry-After": "1"}
        return JsonAnswer(describe_job(job, at), headers={"Cache-Control": "no-store", **headers})

    @app.get("/jobs")
    async def jobs(request: Request) -> Response:
        query = request.query_params
        status, before, limit = query.get("status"), query.get("before"), query.get("limit", "20")
        wrong = [name for name in query if name not in ("status", "before", "limit")]
        if status is not None and status not in STATUSES:
            wrong.append("status")
        if before is not None and not JOB_ID.fullmatch(before):
            wrong.append("before")
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= 100:
            wrong.append("limit")
        if wrong:
            detail = [
                {"loc": ["query", name], "msg": "unknown parameter, or not a valid value", "type": "value_error"}
                for name in wrong
            ]
            return JsonAnswer({"detail": detail}, 422)
        found = await store.list_jobs(status, before, int(limit))
        listed = [{key: value for key, value in describe_job(job).items() if key not in ("nodes", "outputs")} for job in found]
        return JsonAnswer({"jobs": listed, "next": found[-1].id if len(found) == int(limit) else None})

    @app.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> Response:
        job = await find(job_id)
        if job is None:
            return missing()
        if job.status not in ENDED and not await runner.cancel(job_id):
            job = await find(job_id)
            if job is None:
                return missing()
        elif job.status not in ENDED:
            job = await find(job_id) or job
        if job.status in ("completed", "failed"):
            return refuse(409, "ended", f"the job has already ended: it is {job.status}")
        return JsonAnswer(describe_job(job))

    @app.delete("/jobs/{job_id}")
    async def delete(job_id: str) -> Response:
        job = await find(job_id)
        if job is None:
            return missing()
        if not await runner.delete(job_id) and await find(job_id) is not None:
            return refuse(409, "running", f"the job has not ended (it is {job.status}): cancel it first")
        return Response(status_code=204)
