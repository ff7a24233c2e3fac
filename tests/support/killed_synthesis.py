"""``synthesize`` that is killed at a batch: ``python -m tests.support.killed_synthesis ROOT N``.

Every batch that is begun leaves a line in ``ROOT/drawn.txt``; the N-th of this process kills it.
N is 0 for a process that is left alone.
"""

import os
import signal
import sys
from pathlib import Path

from histodiff.cluster.site import NoRay, Site
from histodiff.synthesis import worker
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_configs import synthesize_config


def main(root: Path, last: int) -> None:
    drawn, calls = worker.draw_latents, []

    def counted(networks, drawing, samples):
        calls.append(samples)
        with open(root / "drawn.txt", "a", encoding="utf-8") as stream:
            stream.write(f"{samples.start}\n")
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return drawn(networks, drawing, samples)

    worker.draw_latents = counted
    site = Site(root=str(root), ray=NoRay(type="none"), device="cpu")
    synthesize(synthesize_config(name="killed", batch=2, shard_size=4, per_class=10), site)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
