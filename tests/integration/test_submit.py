"""``histodiff submit`` against a real Ray head with token authentication, on loopback."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.ports import free_ports

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef0123456789abcdef"  # the token of this test's own cluster


@dataclass(frozen=True)
class Cluster:
    """A Ray head that this test started."""

    dashboard: str
    root: Path

    def submit(self, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        """Runs ``histodiff submit`` as a user would, in a process of its own."""
        site = [
            f"site.ray.dashboard={self.dashboard}",
            f"site.ray.python={sys.executable}",
            f"site.root={self.root}",
            "site.device=cpu",
        ]
        return subprocess.run(
            [sys.executable, "-m", "histodiff", "submit", *arguments, *site],
            cwd=REPOSITORY, env=environment(token), capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip


def environment(token: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {
        **inherited,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def wait_until_started(head: subprocess.Popen[str]) -> None:
    """Reads what the head prints until it says that it runs; fails if it ends before."""
    assert head.stdout is not None
    printed = []
    for line in head.stdout:
        printed.append(line)
        if "Ray runtime started" in line:
            return
    pytest.fail("".join(printed))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    gcs, dashboard, client, agent, agent_grpc, metrics = free_ports(6)
    with tempfile.TemporaryDirectory(prefix="hd", dir="/tmp") as folder:  # socket paths are short
        head = subprocess.Popen(
            [
                Path(sys.executable).with_name("ray"), "start", "--head", "--block",
                "--node-ip-address=127.0.0.1", f"--port={gcs}", "--dashboard-host=127.0.0.1",
                f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
                f"--dashboard-agent-listen-port={agent}",
                f"--dashboard-agent-grpc-port={agent_grpc}",
                f"--metrics-export-port={metrics}", "--num-cpus=1",
                "--object-store-memory=100000000", f"--temp-dir={folder}/ray",
            ],
            env={**environment(TOKEN), "RAY_raylet_start_wait_time_s": "180"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            wait_until_started(head)
            yield Cluster(f"http://127.0.0.1:{dashboard}", tmp_path_factory.mktemp("root"))
        finally:
            head.send_signal(signal.SIGTERM)  # `ray stop` would end every Ray of this machine
            head.communicate(timeout=60)


def test_submit_runs_a_command_on_the_cluster_and_exits_with_its_code(cluster: Cluster) -> None:
    done = cluster.submit("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")  # the result alone; Ray's one log went to stderr
    assert str(cluster.root) in done.stdout
    assert "Running entrypoint" in done.stderr


def test_submit_takes_a_config_along_and_gives_the_jobs_line_and_code(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("naem: x\n")
    done = cluster.submit("run", str(config), "--dry-run")
    assert done.returncode == 2
    assert "naem: unknown key; did you mean 'name'?" in done.stderr
    assert done.stdout == ""


def test_submit_with_another_token_is_refused_in_one_line(cluster: Cluster) -> None:
    done = cluster.submit("doctor", token="f" * 32)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "refuses the token" in done.stderr
