"""Jobs of SLURM: one that is preempted saves, is requeued, and resumes by itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from src.kindling.runs import run
from src.kindling.runs.files import read_json


def requeue() -> None:
    """Ask SLURM to run this job again, if it is one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        print(f"slurm      job {job} is queued again")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        print(f"slurm      job {job} could not be queued again: {reason.strip()}")


def requeued() -> Path | None:
    """Return the run that this job started before it was requeued, if it was."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    files = sorted(run.LOGS.glob("*/*/meta.json"), key=lambda file: file.parent.name, reverse=True)
    return next((file.parent for file in files if read_json(file).get("slurm_job") == job), None)
