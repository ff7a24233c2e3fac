"""Runs a shell command as a job of a running Ray cluster: submits it, follows its log, waits.

Ray keeps stdout and stderr of a job in one log, which ``run_job`` hands on line by line as it
grows. Interrupting ``run_job`` stops the job: a second driver would otherwise write beside it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from histodiff.credentials import authorization
from histodiff.errors import ConfigError
from histodiff.runtime.memory import ONE_ARENA

_POLL_SECONDS = 1.0
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A shell command, the folder that it runs in a copy of, and its environment variables."""

    entrypoint: str
    working_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FinishedJob:
    """A job's end: its driver's exit code (None if it never ran or was stopped) and Ray's word."""

    exit_code: int | None
    message: str


def run_job(dashboard: str, job: Job, *, on_line: Callable[[str], None]) -> FinishedJob:
    """Submits the job, gives every line of its log to ``on_line``, and returns how it ended.

    Args:
        dashboard: ``http://head:8265``; Ray's own RAY_API_SERVER_ADDRESS and RAY_ADDRESS go first.
        job: What to run.
        on_line: Called with each line of the log, without its end.

    Raises:
        ConfigError: No cluster answers there, or it refuses the token.
    """
    client = _connected(dashboard)
    identifier = _submitted(client, job)
    try:
        asyncio.run(_follow(client, identifier, on_line))
    except KeyboardInterrupt:
        client.stop_job(identifier)
        raise
    info = client.get_job_info(identifier)
    return FinishedJob(info.driver_exit_code, f"job {identifier} {info.status}: {info.message}")


def _connected(dashboard: str) -> Any:
    try:
        login = authorization(dashboard)
        return JobSubmissionClient(dashboard, headers={"Authorization": login} if login else None)
    except AuthenticationError as error:
        raise ConfigError(_refused(dashboard)) from error
    except ConnectionError as error:
        raise ConfigError(
            f"no Ray cluster answers at {dashboard}; start one, or set site.ray.dashboard (or"
            " RAY_API_SERVER_ADDRESS) to the address of its dashboard"
        ) from error
    except RuntimeError as error:
        if "401" in str(error) or "403" in str(error) or "token" in str(error).lower():
            raise ConfigError(_refused(dashboard)) from error
        raise


def _submitted(client: Any, job: Job) -> str:
    """Submits; a cluster that has just started has no agent to take jobs for some seconds."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=job.entrypoint,
                    runtime_env={
                        "working_dir": str(job.working_dir),
                        "env_vars": ONE_ARENA | dict(job.environment),
                    },
                )
            )
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the Ray cluster takes no jobs after {_START_SECONDS:.0f} s; see its dashboard"
                ) from error
        time.sleep(_POLL_SECONDS)


def _refused(dashboard: str) -> str:
    return (
        f"the Ray cluster at {dashboard} refuses the token; set RAY_AUTH_MODE=token and"
        " RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the token of its head node"
        " (there: ray get-auth-token)"
    )


async def _follow(client: Any, identifier: str, on_line: Callable[[str], None]) -> None:
    """Hands on the log until the job has ended; a dropped connection is taken up where it broke."""
    seen = 0
    rest = ""
    while True:
        skipped = 0
        async for text in _log_chunks(client, identifier):
            fresh = text[max(0, seen - skipped) :]
            skipped += len(text)
            seen = max(seen, skipped)
            *lines, rest = (rest + fresh).split("\n")
            for line in lines:
                on_line(line)
        if client.get_job_status(identifier).is_terminal():
            break
        time.sleep(_POLL_SECONDS)
    if rest:
        on_line(rest)


async def _log_chunks(client: Any, identifier: str) -> AsyncIterator[str]:
    """Pieces of the log from its start; ends when the job does, or the connection."""
    try:
        async for text in client.tail_job_logs(identifier):
            yield text
    except RuntimeError as error:
        if "closed unexpectedly" not in str(error):
            raise
