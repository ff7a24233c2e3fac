"""What an S3 server's refusal means, in one line with the cause and the fix.

Credentials, clock, region and endpoint are the user's to mend, and concern every object alike: a
``ConfigError`` that ends the command. Access that is denied concerns one place: ``AccessRefused``,
which is a PermissionError too.
"""

import re
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)

from histodiff.errors import AccessRefused, ConfigError, HistodiffError, TransientError

DENIED = ("AccessDenied", "403", "AllAccessDisabled", "AccountProblem", "InvalidObjectState")
SERVER_ERRORS = 500
UNEXPLAINED = ("400", "403", "Forbidden", "Bad Request")
"""Codes of answers without a body, such as those to HEAD: they do not say what is wrong."""

_EXPIRED = (
    "the credentials have expired",
    "get new ones (AWS_SESSION_TOKEN and its keys), then run the same command again",
)
_UNKNOWN_TOKEN = ("the server does not know the session token", "check AWS_SESSION_TOKEN")
_OTHER_REGION = (
    "the bucket lies in another region or at another endpoint",
    "check AWS_DEFAULT_REGION and AWS_ENDPOINT_URL",
)
_NO_NAME = (
    "that is no name of a bucket",
    "use 3 to 63 lower-case letters, digits, dots and hyphens",
)
_CAUSES: Mapping[str, tuple[str, str]] = {
    "InvalidAccessKeyId": (
        "the server does not know the access key", "check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
    ),
    "SignatureDoesNotMatch": (
        "the secret key does not fit the access key", "check AWS_SECRET_ACCESS_KEY"
    ),
    "RequestTimeTooSkewed": (
        "the clock of this machine is not the server's", "set it (NTP) and run the command again"
    ),
    "RequestExpired": (
        "the request is too old: the clock of this machine is not the server's",
        "set it (NTP) and run the command again",
    ),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": _UNKNOWN_TOKEN,
    "InvalidClientTokenId": _UNKNOWN_TOKEN,
    "InvalidSecurity": (
        "the server does not accept the credentials",
        "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "IllegalLocationConstraintException": _OTHER_REGION,
    "PermanentRedirect": _OTHER_REGION,
    "TemporaryRedirect": _OTHER_REGION,
    "Redirect": _OTHER_REGION,
    "301": _OTHER_REGION,
    "302": _OTHER_REGION,
    "307": _OTHER_REGION,
    "InvalidBucketName": _NO_NAME,
}  # fmt: skip
_ASKED = "check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_XML_CODE = re.compile(r"<Code>([^<]*)</Code>")
_XML_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


def response_of(error: BaseException) -> Mapping[str, Any]:
    """The server's answer that the exception was made of; empty where there is none."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            return response
    return {}


def error_code(error: BaseException) -> str:
    """The code of the S3 server's answer; empty where there is none."""
    return str(response_of(error).get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int:
    """The HTTP status of the S3 server's answer; 0 where there is none."""
    return int(response_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_overload(error: BaseException) -> bool:
    """Whether the server has failed (any 5xx): the request is repeated."""
    return isinstance(error, ClientError) and status_of(error) >= SERVER_ERRORS


def refusal(place: str, code: str, said: str = "") -> HistodiffError | None:
    """The error for a code of an S3 server about ``place``; None for codes that are no refusal."""
    if code in _CAUSES:
        cause, fix = _CAUSES[code]
        return ConfigError(f"{place}: {cause} ({code}); {fix}")
    if code in DENIED:
        detail = said if said and said not in ("Forbidden", code) else code
        return AccessRefused(
            f"{place}: access is denied ({detail}); ask for the right to list, read and write"
            " there, or check AWS_ACCESS_KEY_ID"
        )
    return None


def refusal_in(place: str, body: bytes, status: int) -> HistodiffError | None:
    """As `refusal`, for the body of an answer; nothing else of it is repeated: it may hold keys."""
    text = body.decode(errors="replace")
    code = _XML_CODE.search(text)
    message = _XML_MESSAGE.search(text)
    said = message[1] if message else ""
    if code and code[1] == "AccessDenied" and "expired" in said.lower():
        return refusal(place, "RequestExpired")
    return refusal(place, code[1] if code else str(status), said)


def no_bucket(name: str) -> FileNotFoundError:
    """The error for a bucket that is not there."""
    return FileNotFoundError(
        f"s3://{name}: there is no such bucket; create it, or correct its name or AWS_ENDPOINT_URL"
    )


def unreachable(place: str, error: Exception) -> HistodiffError:
    """The error for a server that gives no answer, or none that can be read."""
    if isinstance(error, SSLError):
        return ConfigError(
            f"{place}: the server's certificate is not accepted ({one_line(error)}); set"
            " AWS_CA_BUNDLE to the file of your site's authority, or correct AWS_ENDPOINT_URL"
        )
    return TransientError(
        f"{place}: {one_line(error)}; check AWS_ENDPOINT_URL and the server that it names"
    )


def one_line(error: BaseException) -> str:
    """The error's text on one line, without numbers of errors, or its type where it has none."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def misconfigured(place: str, error: Exception) -> ConfigError | None:
    """The error for what botocore refuses before it asks a server; None for anything else."""
    reason = one_line(error)
    if isinstance(error, ParamValidationError):
        return ConfigError(f"{place}: {_NO_NAME[0]}; {_NO_NAME[1]}")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigError(
            f"{place}: S3 needs credentials ({reason}); set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, or a profile"
        )
    if isinstance(error, (BotoCoreError, ValueError)):
        return ConfigError(f"{place}: S3: {reason.rstrip('.')}; {_ASKED}")
    return None
