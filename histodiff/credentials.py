"""Passwords and signatures in text: where they are they are cut, and where given they are refused.

A command line, a config and every table are kept with results, so a secret in one of them would be
read by many. Web servers get theirs from ``~/.netrc`` (or the file that NETRC names), S3 from AWS's
variables, by botocore.
"""

import base64
import netrc
import os
import re
from urllib.parse import urlsplit

from histodiff.errors import ConfigError

_CUT = "***"
_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@'\"]+@")
_NAMES = (
    "x-amz-signature", "x-amz-credential", "x-amz-security-token", "x-goog-signature",
    "x-goog-credential", "signature", "awsaccesskeyid", "sig", "token", "access_token",
    "auth_token", "api_key", "apikey", "password", "passwd", "secret", "key-pair-id",
)  # fmt: skip
_SIGNATURE = re.compile(rf"([?&;](?:{'|'.join(_NAMES)})=)(?!\*\*\*)[^&;\s'\"#]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """``text`` with logins and signatures in its URLs cut."""
    if "://" not in text and "=" not in text:
        return text
    return _SIGNATURE.sub(rf"\1{_CUT}", _LOGIN.sub(rf"\1{_CUT}@", text))


def refuse_secret(text: str, *, where: str = "") -> None:
    """Returns if there is no login or signature in the URLs of ``text``.

    Raises:
        ConfigError: There is; the message shows the text without it.
    """
    shown = redacted(text)
    if shown == text or f"{_CUT}@" in text:
        return
    place = f"{where}: " if where else ""
    raise ConfigError(
        f"{place}{shown}: has a password, key or signature in it, which would be kept with the"
        " results; give the address without it, and the login in ~/.netrc (machine, login,"
        " password), or for S3 in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def authorization(url: str) -> str | None:
    """The ``Authorization`` header for a web address from netrc; None where that has no login.

    Raises:
        ConfigError: The netrc file cannot be read.
    """
    host = urlsplit(url).hostname
    file = os.environ.get("NETRC") or os.path.join(os.path.expanduser("~"), ".netrc")
    if not host or not os.path.isfile(file):
        return None
    try:
        found = netrc.netrc(file).hosts.get(host)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); correct it, or remove it") from error
    except netrc.NetrcParseError as error:
        raise ConfigError(f"{file}: line {error.lineno}: {error.msg}; correct it") from error
    if not found:
        return None
    login, _, password = found
    encoded = base64.b64encode(f"{login}:{password or ''}".encode()).decode("ascii")
    return f"Basic {encoded}"
