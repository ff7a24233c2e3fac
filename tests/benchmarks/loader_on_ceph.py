"""``bench loader`` with Ceph's gateway beside it: ``make bench-loader``.

Options are those of the bench, as ``key=value``; ``s3`` is given by this script.
"""

import json
import sys

from histodiff.workflows.bench import bench
from tests.support.ceph import KEY, SECRET, running_ceph
from tests.support.s3 import aws_environment


def main() -> None:
    with running_ceph() as endpoint, aws_environment(endpoint, key=KEY, secret=SECRET):
        result = bench("loader", [*sys.argv[1:], "s3=s3://bench/loader"])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
