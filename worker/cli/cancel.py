"""Cancel a job."""

from __future__ import annotations

from worker.cli.context import AsJson, JobId, open_admin, out, print_json
from worker.domain.phrases import quantity


def cancel(job: JobId, as_json: AsJson = False) -> None:
    with open_admin() as admin:
        job_id = admin.find_job(job)
        counts = admin.cancel(job_id)
        status = admin.job(job_id)["status"]
    if as_json:
        print_json(counts)
        return
    if not counts["inputs"]:
        out.print(f"nothing is left to cancel: the job is {status}")
        return
    out.print(f"{quantity(counts['inputs'], 'input')} cancelled")
    if counts["at_judge"]:
        out.print(f"{counts['at_judge']:,} of them were already sent; their results are dropped")
