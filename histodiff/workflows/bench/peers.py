"""Peers of a bench: a script that runs in an environment of its own, and answers questions.

Peers' pins fight with ours, so they are never imported here. The script takes one JSON object per
line and answers each with one; so the bench can let ours and theirs take turns.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import histodiff
from histodiff.errors import ConfigError

_STOP_SECONDS = 30.0


class PeerProcess:
    """A running script.

    Args:
        name: Of the interpreter, as it was given.
        process: With pipes of text for input and output.
        target: Of the Makefile; installs what the script needs.
    """

    def __init__(self, name: str, process: "subprocess.Popen[str]", *, target: str) -> None:
        self._name, self._process, self._target = name, process, target

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            ConfigError: The script has ended; what it said is on the error output.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer is missing too, and that is reported
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError(
                f"peers={self._name}: ended without an answer to {question.get('do')!r};"
                f" see its output above; `make {self._target}` installs what it needs"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def peer_process(python: str, script: str, *, target: str) -> Iterator[PeerProcess]:
    """The script of this checkout, run by ``python`` for the time of the block.

    Args:
        python: The interpreter of the peers' environment.
        script: Path of the script, relative to the repository.
        target: Of the Makefile; makes that environment.

    Raises:
        ConfigError: One of them is not there.
    """
    place = Path(histodiff.__file__).resolve().parent.parent / script
    for path, fix in (
        (Path(python), f"run `make {target}` and give the Python that it names"),
        (place, "run the bench from a checkout"),
    ):
        if not path.is_file():
            raise ConfigError(f"peers={python}: {path} is not there; {fix}")
    with subprocess.Popen(
        [python, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield PeerProcess(python, process, target=target)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(_STOP_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
