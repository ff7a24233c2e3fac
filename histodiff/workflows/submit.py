"""``submit``: the same command, run by a job on a Ray cluster.

A copy of the code folders of this checkout goes with the job, and so do the YAML files that the
command line names; of an installed histodiff only the files go, and the nodes have their own. Ray
mixes a job's stdout and stderr into one log, so the lines of the result are marked on the way.
"""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from histodiff.artifacts.provenance import COMMIT_FILE, git_commit
from histodiff.cluster.jobs import Job, run_job
from histodiff.cluster.site import ClusterRay, Site
from histodiff.errors import ConfigError

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_CODE = ("histodiff", "cluster", "configs", "data_prep", "kernels", "pyproject.toml")
_FILES = "submitted"
_MARK = "histodiff-result: "
_IN_A_COPY = 'copy=$(mktemp -d) && trap "rm -rf $copy" EXIT && cp -r . "$copy" && cd "$copy"'


@dataclass(frozen=True)
class Submission:
    """A command line to be run elsewhere."""

    command: str
    """Name of the command."""
    arguments: tuple[str, ...]
    """Everything typed behind it, but ``--site``."""
    site_name: str
    """File or shipped name of the site."""


def submit(
    submission: Submission, site: Site, *, environment: Mapping[str, str], out: TextIO
) -> int:
    """Runs the command on the site's cluster; returns its exit code.

    The result goes to ``out``, the log to stderr, as if the command ran here.

    Args:
        submission: The command line.
        site: The cluster, where the command will run too.
        environment: Where the variables of ``job_environment`` are looked up.
        out: Gets the lines that the command writes on stdout.

    Raises:
        ConfigError: The site is no cluster, its root is a relative path, or a variable is unset.
    """
    ray = _cluster_of(site)
    values = _job_environment(ray, environment)
    printer = _Printer(result=out, log=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="histodiff-submit-") as folder:
        staged = Path(folder)
        _stage_code(staged)
        words = _staged_words(submission, staged)
        finished = run_job(
            ray.dashboard,
            Job(entrypoint(ray.python, words), staged, values),
            on_line=printer.line,
        )
    if finished.exit_code is None:
        print(finished.message, file=sys.stderr)
        return 1
    return finished.exit_code


def entrypoint(python: str, words: Sequence[str]) -> str:
    """The job's shell command: stdout of the command is marked, its exit code kept.

    It runs in a copy of the job's folder. Ray may put a fresh folder in the place of the one that
    the job stands in: a second node of the same machine unpacks the code where the first one has.
    """
    command = shlex.join([python, "-m", "histodiff", *words])
    marked = f"{command} | sed -u s/^/{shlex.quote(_MARK)}/"
    return f"bash -o pipefail -c {shlex.quote(f'{_IN_A_COPY} && {marked}')}"


@dataclass(frozen=True)
class _Printer:
    result: TextIO
    log: TextIO

    def line(self, text: str) -> None:
        marked = text.startswith(_MARK)
        print(text.removeprefix(_MARK), file=self.result if marked else self.log, flush=True)


def _cluster_of(site: Site) -> ClusterRay:
    if not isinstance(site.ray, ClusterRay):
        raise ConfigError(
            f"site: ray.type is '{site.ray.type}': submit needs a running cluster; give --site"
            " site/cluster.yaml, or site.ray.type=cluster"
        )
    if "://" not in site.root and not Path(site.root).is_absolute():
        raise ConfigError(
            f"site: root '{site.root}' is relative, and a job runs in a folder of its own; give"
            " site.root=s3://bucket/prefix or an absolute path that all nodes share"
        )
    return site.ray


def _job_environment(ray: ClusterRay, environment: Mapping[str, str]) -> dict[str, str]:
    unset = [name for name in ray.job_environment if name not in environment]
    if unset:
        raise ConfigError(
            f"site: ray.job_environment names {', '.join(unset)}, which is not set here; export it,"
            " or take it out of the list"
        )
    return {name: environment[name] for name in ray.job_environment}


def _stage_code(target: Path) -> None:
    """Copies the code of a checkout, with the commit it is at; nothing for an installed wheel."""
    if not (_REPOSITORY / "pyproject.toml").is_file():
        return
    for name in _CODE:
        source = _REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)
    commit = git_commit()
    if commit is not None:
        (target / COMMIT_FILE).write_text(commit + "\n", encoding="ascii")


def _staged_words(submission: Submission, target: Path) -> list[str]:
    """The command line as the job sees it: YAML files of this machine become staged copies."""
    words = [submission.command, *submission.arguments, "--site", submission.site_name]
    return [_staged_word(word, number, target) for number, word in enumerate(words)]


def _staged_word(word: str, number: int, target: Path) -> str:
    source = Path(word)
    if source.suffix not in (".yaml", ".yml") or not source.is_file():
        return word
    name = f"{_FILES}/{number}-{source.name}"
    (target / _FILES).mkdir(exist_ok=True)
    shutil.copy2(source, target / name)
    return name
