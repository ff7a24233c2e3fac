import io
import subprocess
from pathlib import Path

import pytest

from histodiff.cluster.site import ClusterRay, Site
from histodiff.errors import ConfigError
from histodiff.workflows.submit import Submission, entrypoint, submit

DOCTOR = Submission("doctor", (), "site/cluster")


def site_with(**ray: object) -> Site:
    values = {"type": "cluster", "dashboard": "http://127.0.0.1:9", **ray}
    return Site(root="s3://bucket/runs", ray=ClusterRay.model_validate(values), device="cpu")


def test_entrypoint_marks_the_result_keeps_words_and_exit_code(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho log >&2\nexit 3\n')
    fake.chmod(0o755)
    command = entrypoint(str(fake), ["tile", "a b.yaml", "x={a: [1, 2]}", "it's"])
    done = subprocess.run(
        command, cwd=tmp_path, shell=True, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr == "log\n"
    words = [line.removeprefix("histodiff-result: ") for line in done.stdout.splitlines()]
    assert words == ["-m", "histodiff", "tile", "a b.yaml", "x={a: [1, 2]}", "it's"]
    assert done.stdout.startswith("histodiff-result: ")


def test_entrypoint_outlives_the_folder_of_the_job_and_leaves_no_other(tmp_path: Path) -> None:
    job, fake = tmp_path / "job", tmp_path / "python"
    (job / "submitted").mkdir(parents=True)
    (job / "submitted" / "1-mine.yaml").write_text("name: mine\n")
    fake.write_text(f"#!/bin/sh\nrm -r {job}\ncat $3\n/bin/pwd\n")
    fake.chmod(0o755)
    command = entrypoint(str(fake), ["submitted/1-mine.yaml"])
    done = subprocess.run(command, cwd=job, shell=True, capture_output=True, text=True, check=False)
    content, folder = (line.partition(": ")[2] for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr, content) == (0, "", "name: mine")
    assert not Path(folder).exists()


def test_submit_unset_variable_of_the_job_is_named() -> None:
    site = site_with(job_environment=["AWS_ACCESS_KEY_ID"])
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        submit(DOCTOR, site, environment={}, out=io.StringIO())


def test_submit_to_nobody_names_the_dashboard_setting() -> None:
    with pytest.raises(ConfigError, match=r"site\.ray\.dashboard"):
        submit(DOCTOR, site_with(), environment={}, out=io.StringIO())
