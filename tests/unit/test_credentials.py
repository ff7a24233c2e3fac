"""Passwords and signatures: cut from all that is stored or printed, refused where given."""

import io
import logging
import sys
from pathlib import Path

import pytest

from histodiff.artifacts import provenance
from histodiff.cli.execution import execute
from histodiff.cli.options import Invocation
from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.credentials import authorization, redacted, refuse_secret
from histodiff.errors import ConfigError
from histodiff.storage import storage_path
from histodiff.telemetry import configure_logging

SECRETS = [
    "http://user:hunter2@host/data", "https://hunter2@host/data", "s3://key:hunter2@bucket/x",
    "https://h/a.svs?X-Amz-Signature=hunter2&x=1", "https://h/a?sig=hunter2", "https://h/a?b=1&token=hunter2",
    "see http://user:hunter2@host/data, twice: ftp://u:hunter2@h", "https://h/x?AWSAccessKeyId=hunter2",
]  # fmt: skip
PLAIN = [
    "patches/im@v1", "s3://bucket/runs/patches/im@dev", "https://host/a?b=c", "a@b",
    "/data/u:p@h/x",
    "https://host/runs/patches/im@v1", "key=value", "signature=mine",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_cut_and_refused_without_being_told(text: str) -> None:
    assert "hunter2" not in redacted(text)
    assert redacted(redacted(text)) == redacted(text)
    with pytest.raises(ConfigError, match="netrc") as refused:
        refuse_secret(text)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("text", PLAIN)
def test_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    refuse_secret(text)


@pytest.mark.parametrize("text", SECRETS)
def test_places_and_configs_with_secrets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        storage_path(text)
    assert "hunter2" not in str(refused.value)
    for values in (
        {"root": text, "ray": {"type": "none"}, "device": "cpu"},
        {"root": "runs", "ray": {"type": "cluster", "dashboard": text}, "device": "cpu"},
        {"root": "runs", "ray": {"type": "none"}, "device": text, "ranks": text},
    ):
        with pytest.raises(ConfigError) as refused:
            parse_config(Site, values, source="site")
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("command", ["tile", "inspect", "verify", "submit", "run", "plan"])
def test_commands_refuse_secrets_and_do_not_print_them(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://user:hunter2@127.0.0.1:1/data"
    for typed in (
        Invocation("configs/tile/generated_slides.yaml", (f"data={url}",)),
        Invocation("configs/tile/generated_slides.yaml", (f"site.root={url}",)),
        Invocation(url),
    ):
        assert execute(command, typed) == 2
        printed = capsys.readouterr()
        assert "hunter2" not in printed.out + printed.err
        assert printed.err.count("\n") == 1


def test_recorded_command_line_has_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["histodiff", "tile", "data=http://u:hunter2@h/x"])
    assert provenance(0.0)["argv"] == ["histodiff", "tile", "data=http://***@h/x"]


def test_log_lines_have_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging()
    logging.getLogger("histodiff.test").warning("at %s", "http://u:hunter2@host/")
    assert "http://***@host/" in stream.getvalue()


def test_logins_are_read_from_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    assert authorization("https://host/x") is None
    file.write_text("machine host login user password secret\n")
    file.chmod(0o600)
    assert authorization("https://host:8080/x") == "Basic dXNlcjpzZWNyZXQ="
    assert authorization("https://other/x") is None
    file.write_text("machine host nonsense\n")
    with pytest.raises(ConfigError, match="line 2"):
        authorization("https://host/x")
