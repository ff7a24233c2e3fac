"""Requests of ``encode`` that Ceph's gateway served, against those that ``plan`` says.

``python -m tests.benchmarks.requests_against_plan [--slides 1 4 16]`` prints one line per size:
puts, gets (heads are gets) and lists, planned and served, and how far the plan is off.
"""

import argparse
import tempfile
from pathlib import Path

from histodiff.storage import storage_path
from tests.support.ceph import KEY, SECRET, running_ceph
from tests.support.counted_requests import counted, requests_of_encode


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slides", type=int, nargs="+", default=[1, 4, 16])
    sizes = parser.parse_args().slides
    with (
        tempfile.TemporaryDirectory(prefix="histodiff-requests-") as folder,
        running_ceph() as endpoint,
        counted(endpoint, key=KEY, secret=SECRET) as proxy,
    ):
        for slides in sizes:
            root = storage_path(f"s3://requests-{slides}/runs")
            root.fs.mkdir(f"requests-{slides}")
            found = requests_of_encode(proxy, root, Path(folder), slides=slides)
            print(f"{slides:3d} slides, {found}", flush=True)


if __name__ == "__main__":
    main()
