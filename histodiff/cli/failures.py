"""From an exception to what the user sees: one line and an exit code.

Exit 2 is for what a user can mend: our own errors, a store that refuses or cannot be reached, a
full disk. Anything else is a bug of ours: a traceback, exit 1. Errors that travelled through Ray
are unwrapped first; vendors are known by the shape of their errors, so that none is imported here.
"""

import errno
import sys
import traceback
from collections.abc import Callable, Iterator
from enum import IntEnum

from histodiff.credentials import redacted
from histodiff.errors import HistodiffError, Preempted

_MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
_REFUSALS = {
    "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket",
    "PermanentRedirect", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
}  # fmt: skip
_UNREACHABLE = {
    "ConnectTimeoutError", "ConnectionClosedError", "EndpointConnectionError", "InvalidEndpoint",
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ReadTimeoutError",
}  # fmt: skip


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    BUG = 1
    USER = 2
    UNITS_FAILED = 3
    INTERRUPTED = 130
    TERMINATED = 143


def guarded(action: Callable[[], int]) -> int:
    """The exit code of ``action``, with its errors explained on stderr."""
    try:
        return action()
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to continue")
        return ExitCode.INTERRUPTED
    except Preempted as error:
        _say(_one_line(error))
        return ExitCode.TERMINATED
    except Exception as error:
        message = user_message(error)
        if message is None:
            _say(traceback.format_exc().rstrip())
            return ExitCode.BUG
        _say(f"error: {message}")
        return ExitCode.USER


def user_message(error: BaseException) -> str | None:
    """One line for an error that the user can mend; None for a bug of ours."""
    for cause in _causes(error):
        if isinstance(cause, HistodiffError):
            return _one_line(cause)
        refused = _storage_refusal(cause)
        if refused is not None:
            return refused
        if isinstance(cause, OSError) and cause.errno in _MENDABLE:
            return _one_line(cause)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from; of a vendor's wrapper only what it wraps.

    Ray's ``RayTaskError.cause`` holds the error of a task (the wrapper itself prints a remote
    traceback); Ray Train's errors hold ``worker_failures`` by rank or a ``controller_failure``.
    """
    wrapped = [
        getattr(error, "cause", None),
        getattr(error, "controller_failure", None),
        *getattr(error, "worker_failures", {}).values(),
    ]
    inner = [item for item in wrapped if isinstance(item, BaseException)]
    for item in inner:
        yield from _causes(item)
    if not inner:
        yield error
        if error.__cause__ is not None and error.__cause__ is not error:
            yield from _causes(error.__cause__)


def _storage_refusal(error: BaseException) -> str | None:
    """One line for S3 credentials, buckets and endpoints that are wrong; None for anything else."""
    if type(error).__module__.partition(".")[0] not in ("botocore", "aiobotocore"):
        return None
    response = getattr(error, "response", None) or {}  # None where no answer came
    code = response.get("Error", {}).get("Code", "")
    if code not in _REFUSALS and type(error).__name__ not in _UNREACHABLE:
        return None
    return (
        f"S3: {_one_line(error)}; check the bucket in `root`, AWS_ENDPOINT_URL,"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _say(line: str) -> None:
    print(redacted(line), file=sys.stderr, flush=True)
