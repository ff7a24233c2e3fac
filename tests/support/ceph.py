"""A real S3 server: Ceph's gateway, with one monitor and one object store in memory, on loopback.

Its programs run in the foreground as children of the tests, with all their state in one temporary
folder and on free ports, so that ending these processes leaves nothing behind and touches no other
Ceph of the machine.
"""

import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.s3 import aws_environment

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw")
INSTALL = "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"
KEY, SECRET = "histodiff", "histodiff-secret"
_STORE_BYTES = 4 * 2**30
_START_SECONDS, _STOP_SECONDS = 90.0, 30.0
_POLL_SECONDS = 0.25

_CONF = """\
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{port}/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = {folder}/keyring
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = {store_bytes}
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
run_dir = {folder}
log_file = {folder}/$name.log
err_to_stderr = false
admin_socket =
"""


@pytest.fixture(scope="session")
def ceph_endpoint() -> Iterator[str]:
    """Address of Ceph's gateway; ``AWS_*`` point to it for the whole session."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.fail(f"missing: {', '.join(missing)}; run: {INSTALL}", pytrace=False)
    with running_ceph() as endpoint, aws_environment(endpoint, key=KEY, secret=SECRET):
        yield endpoint


@contextmanager
def running_ceph() -> Iterator[str]:
    """Address of a gateway that runs for the time of the block, with one user."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hd-ceph-"))
        ceph = stack.enter_context(_Ceph(Path(folder)))
        ceph.start_monitor()
        ceph.start_object_store()
        yield ceph.start_gateway()


@dataclass
class _Ceph:
    """One cluster: its folder, and the processes that were started, in order."""

    folder: Path
    fsid: str = field(default_factory=lambda: str(uuid.uuid4()))
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def __enter__(self) -> "_Ceph":
        for name in ("mon", "osd", "rgw"):
            (self.folder / name).mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_monitor(self) -> None:
        """A monitor, which forms a quorum of one."""
        (port,) = free_ports(1)
        text = _CONF.format(fsid=self.fsid, port=port, folder=self.folder, store_bytes=_STORE_BYTES)
        (self.folder / "ceph.conf").write_text(text)
        may_all = [word for part in ("mon", "osd", "mgr") for word in ("--cap", part, "allow *")]
        admin, monitor = self.folder / "keyring", self.folder / "mon.keyring"
        authtool = ("ceph-authtool", "--create-keyring")
        self.run(*authtool, str(admin), "--gen-key", "-n", "client.admin", *may_all)
        self.run(*authtool, str(monitor), "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.run("ceph-authtool", str(monitor), "--import-keyring", str(admin))
        monmap, address = str(self.folder / "monmap"), f"[v2:127.0.0.1:{port}/0]"
        self.run("monmaptool", "--create", "--addv", "a", address, "--fsid", self.fsid, monmap)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(monitor))
        self.start("ceph-mon", "-i", "a", "--keyring", str(self.folder / "mon" / "keyring"))

    def start_object_store(self) -> None:
        """An object store in memory, up and in."""
        identifier, keyring = str(uuid.uuid4()), str(self.folder / "osd.keyring")
        caps = ["mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"]
        self.run("ceph", "osd", "new", identifier)
        self.run("ceph", "auth", "get-or-create", "osd.0", *caps, "-o", keyring)
        daemon = ("ceph-osd", "-i", "0", "--keyring", keyring)
        self.run(*daemon, "--mkfs", "--osd-uuid", identifier)
        self.start(*daemon)
        self.run("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=localhost")
        self.wait(lambda: "1 up" in self.run("ceph", "osd", "stat"))

    def start_gateway(self) -> str:
        """Address of a gateway with one user."""
        (port,) = free_ports(1)
        self.start(
            "radosgw", "-n", "client.admin", "--keyring", str(self.folder / "keyring"),
            "--rgw-frontends", f"beast endpoint=127.0.0.1:{port}",
        )  # fmt: skip
        endpoint = f"http://127.0.0.1:{port}"
        self.wait(lambda: _answers(endpoint))
        self.run(
            "radosgw-admin", "user", "create", "--uid=histodiff", "--display-name=histodiff",
            f"--access-key={KEY}", f"--secret={SECRET}",
        )  # fmt: skip
        return endpoint

    def run(self, *command: str) -> str:
        """What a program that ends by itself prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False,
            timeout=_START_SECONDS,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def start(self, *command: str) -> None:
        """Starts a program that stays; what it prints goes to a file."""
        with (self.folder / f"{command[0]}.out").open("wb") as output:
            self.processes.append(
                subprocess.Popen(
                    [*command, "-f"], env=self.environment, stdout=output, stderr=output
                )
            )

    def wait(self, happened: Callable[[], bool]) -> None:
        """Waits until it has happened; fails if a process has ended, or after a minute or so."""
        deadline = time.monotonic() + _START_SECONDS
        while not happened():
            ended = [process.args for process in self.processes if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                tails = [path.read_text(errors="replace")[-2000:] for path in self._outputs()]
                pytest.fail("\n".join([f"Ceph did not start; ended: {ended}", *tails]))
            time.sleep(_POLL_SECONDS)

    @property
    def environment(self) -> dict[str, str]:
        """Of the programs: they read this cluster's configuration and no other."""
        return {**os.environ, "CEPH_ARGS": f"-c {self.folder}/ceph.conf"}

    def _outputs(self) -> list[Path]:
        return sorted([*self.folder.glob("*.out"), *self.folder.glob("*.log")])


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=_POLL_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
