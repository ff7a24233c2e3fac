"""A real Prometheus (Debian's package) on loopback, with the scrape config that ships."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.ports import free_ports

SHIPPED = Path(__file__).resolve().parents[2] / "cluster" / "monitoring" / "prometheus.yaml"
INSTALL = "apt-get install -y --no-install-recommends prometheus"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Prometheus:
    """Its query API."""

    port: int
    process: subprocess.Popen[bytes]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series of the expression now, each with ``metric`` and ``value``; none while it starts.

        Raises:
            AssertionError: Prometheus has ended.
            HTTPError: The expression is wrong.
        """
        assert self.process.poll() is None, "prometheus has ended"
        arguments = urllib.parse.urlencode({"query": expression})
        try:
            with _OPENER.open(f"http://127.0.0.1:{self.port}/api/v1/query?{arguments}") as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return []
        except urllib.error.URLError:
            return []
        return found


@contextmanager
def running_prometheus(folder: Path, *, hub_port: int) -> Iterator[Prometheus]:
    """A Prometheus that discovers its targets at a hub, as ``cluster/monitoring`` says, faster.

    Args:
        folder: Empty; for its data.
        hub_port: The site's ``metrics_port``.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.fail(f"missing: prometheus; run: {INSTALL}", pytrace=False)
    config = yaml.safe_load(SHIPPED.read_text())
    config["global"]["scrape_interval"] = "1s"
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "histodiff"]
    [discovery] = job["http_sd_configs"]
    discovery["url"] = discovery["url"].replace(":9100/", f":{hub_port}/")
    discovery["refresh_interval"] = "1s"
    config["scrape_configs"] = [job]
    folder.mkdir()
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    [port] = free_ports(1)
    command = [
        program, f"--config.file={folder / 'prometheus.yaml'}", "--log.level=error",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            yield Prometheus(port, process)
        finally:
            process.terminate()
