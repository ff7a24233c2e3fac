import errno
from typing import Any

import pytest

from histodiff.cli.failures import ExitCode, guarded, user_message
from histodiff.errors import (
    ArtifactDrift,
    ArtifactNotFound,
    ConfigError,
    Preempted,
    SkipReason,
    SlideError,
    TrainingDiverged,
)


class TaskError(Exception):
    """The shape of Ray's RayTaskError: the error of the task is its ``cause``."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a remote traceback\nof many lines")
        self.cause = cause


class TrainError(Exception):
    """The shape of Ray Train's WorkerGroupError."""

    def __init__(self, worker_failures: dict[int, BaseException]) -> None:
        super().__init__("workers failed")
        self.worker_failures = worker_failures


def vendor_error(module: str, name: str, **fields: Any) -> Exception:
    """An error of a class that lives in another package."""
    kind = type(name, (Exception,), {"__module__": module})
    error = kind(f"{name} happened")
    for key, value in fields.items():
        setattr(error, key, value)
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("the fix"),
        ArtifactNotFound("the fix"),
        ArtifactDrift("the fix"),
        SlideError(SkipReason.UNREADABLE, "the fix"),
        TaskError(ConfigError("the fix")),
        TaskError(TaskError(ConfigError("the fix"))),
        TrainError({1: TaskError(ConfigError("the fix"))}),
    ],
)
def test_user_message_of_our_errors_is_their_one_line(error: Exception) -> None:
    message = user_message(error)
    assert message is not None
    assert "the fix" in message
    assert "\n" not in message
    assert "remote traceback" not in message


def test_user_message_finds_the_error_that_a_failure_came_from() -> None:
    error = RuntimeError("wrapper")
    error.__cause__ = TrainingDiverged(7, "checkpoint-5")
    assert "checkpoint-5" in str(user_message(error))


@pytest.mark.parametrize(
    "error",
    [
        vendor_error("botocore.exceptions", "NoCredentialsError"),
        vendor_error("botocore.exceptions", "EndpointConnectionError"),
        vendor_error(
            "botocore.errorfactory", "NoSuchBucket", response={"Error": {"Code": "NoSuchBucket"}}
        ),
        vendor_error(
            "botocore.exceptions", "ClientError", response={"Error": {"Code": "AccessDenied"}}
        ),
    ],
)
def test_user_message_of_s3_refusals_names_the_settings(error: Exception) -> None:
    wrapped = FileNotFoundError("s3fs says so")
    wrapped.__cause__ = error
    assert "AWS_ENDPOINT_URL" in str(user_message(wrapped))


def test_user_message_of_a_full_disk_is_one_line() -> None:
    assert "No space left" in str(user_message(OSError(errno.ENOSPC, "No space left on device")))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours"),
        TaskError(KeyError("ours")),
        FileNotFoundError(errno.ENOENT, "ours"),
        vendor_error("botocore.exceptions", "ClientError", response={"Error": {"Code": "404"}}),
        vendor_error("elsewhere", "EndpointConnectionError"),
    ],
)
def test_user_message_of_a_bug_is_none(error: Exception) -> None:
    assert user_message(error) is None


def raising(error: BaseException) -> Any:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("the fix"), ExitCode.USER, "error: the fix"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "run the same command again to continue"),
        (RuntimeError("ours"), ExitCode.BUG, "Traceback"),
    ],
)
def test_guarded_maps_errors_to_codes(
    error: BaseException, code: ExitCode, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error)) == code
    shown = capsys.readouterr()
    assert line in shown.err
    assert shown.out == ""
    assert ("Traceback" in shown.err) == (code is ExitCode.BUG)


def test_guarded_passes_the_code_through() -> None:
    assert guarded(lambda: 137) == 137


def test_guarded_run_that_was_told_to_end_says_how_to_continue(capsys) -> None:
    def told() -> int:
        raise Preempted(96)

    assert guarded(told) == ExitCode.TERMINATED == 143
    said = capsys.readouterr().err
    assert "96 images" in said
    assert "same command again" in said
    assert not said.startswith("error")
