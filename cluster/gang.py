"""Gangs: a function of one rank, run on N ranks that form one process group.

One rank runs in this process, N ranks under Ray Train, and a rank that torchrun started is used as
it is. A rank that fails or is killed ends the whole gang; under Ray Train the gang then starts
anew, and the rank function takes up its own last checkpoint. An error that a retry cannot cure
(``HistodiffError``, but for ``TransientError``) is raised here as it was.

Ranks are given notice when they have to go: by SIGTERM to this process, or to any rank of
torchrun's, and under Ray Train when a node is about to be reclaimed. A second SIGTERM ends at once.
"""

import itertools
import json
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import ray
import ray.train
import torch.distributed
from ray.train.torch import TorchConfig, TorchTrainer
from torch.distributed.rendezvous import rendezvous

from histodiff.cluster.capacity import ActorResources, Actors, require_capacity
from histodiff.cluster.environment import environment
from histodiff.cluster.mailbox import Mailbox
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import ClusterRay, NoRay, Ranks, RayConfig, fewest_ranks
from histodiff.errors import (
    ArtifactBusy,
    ArtifactCorrupt,
    ArtifactDrift,
    ArtifactError,
    ArtifactNotFound,
    ConfigError,
    HistodiffError,
    Preempted,
    TransientError,
)
from histodiff.runtime import Notice

_log = logging.getLogger(__name__)
_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 600
_PREEMPTION_CALLS = 20
"""Every how many steps Ray Train is asked whether nodes are about to be reclaimed."""
_MADE = "histodiff-made"
_PLAIN_ERRORS = {
    error.__name__: error
    for error in (
        ConfigError, TransientError, ArtifactError,
        ArtifactNotFound, ArtifactBusy, ArtifactDrift, ArtifactCorrupt,
    )
}  # fmt: skip
"""Errors that are made of their message alone."""
_LONGEST_MAKING = timedelta(days=2)
"""How long ranks of torchrun wait for the first; they are ended earlier if it ends."""
_NEXT_TO_NOTHING = 0.001
"""CPUs that a rank reserves on one machine, shared as it comes; Ray Train refuses 0."""

SpecT = TypeVar("SpecT")
ResultT = TypeVar("ResultT")

Reporting = Callable[[Any], None]
Noticing = Callable[[], Notice]

RankFunction = Callable[[SpecT, int, int, Reporting, Noticing], ResultT]
"""``(spec, rank, world_size, report, notice) -> result``; rank 0's result and reports count.
``notice`` must be called equally often by all ranks."""


def run_gang(
    rank_function: RankFunction[SpecT, ResultT],
    make_spec: Callable[[], SpecT],
    *,
    ranks: Ranks,
    ray_config: RayConfig,
    device: str,
    report: Reporting,
    max_failures: int = 3,
) -> ResultT:
    """Runs ``rank_function`` on every rank and returns what rank 0 returned.

    Args:
        rank_function: A function at the top of a module; resumes by itself when called again.
        make_spec: Makes what it is given, picklable; called by the driver. Under torchrun every
            rank calls it, the others after rank 0: what is measured for it must be kept.
        ranks: How many, or how few and how many; of no account under torchrun, which has decided.
        ray_config: The Ray that runs more than one rank.
        device: ``cpu`` or ``cuda``; a rank on cuda has one GPU.
        report: Called in this process with what rank 0 reports, the latest of each 0.1 s.
        max_failures: How many times a gang that lost a rank is started anew.

    Raises:
        ConfigError: Several ranks are asked for where there is no Ray to run them.
        TransientError: The gang failed more often than that; has the errors of the ranks.
    """
    if torchrun_rank() is not None:
        return _run_under_torchrun(rank_function, make_spec, device=device, report=report)
    if ranks == 1:
        spec = make_spec()
        with (
            _process_group(device, rank=0, world_size=1, store=_own_store()),
            _sigterm_as_notice() as notice,
        ):
            return rank_function(spec, 0, 1, report, notice)
    if isinstance(ray_config, NoRay):
        raise ConfigError(
            f"site: ranks={ranks} needs Ray; set ray.type=local, or start the command with torchrun"
        )
    each = ActorResources(
        num_cpus=1.0 if isinstance(ray_config, ClusterRay) else _NEXT_TO_NOTHING,
        num_gpus=1.0 if device == "cuda" else 0.0,
    )
    with ray_session(ray_config):
        require_capacity(ray_config, {"ranks": Actors(fewest_ranks(ranks), each)})
        return _run_under_ray(
            rank_function, make_spec(),
            ranks=ranks, device=device, report=report, max_failures=max_failures, each=each,
        )  # fmt: skip


def torchrun_rank() -> int | None:
    """Rank of this process where torchrun started it; rank 0 is the driver."""
    under = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    return int(os.environ["RANK"]) if under else None


def _run_under_torchrun(
    rank_function: RankFunction[SpecT, ResultT],
    make_spec: Callable[[], SpecT],
    *,
    device: str,
    report: Reporting,
) -> ResultT:
    """This process is one rank of torchrun's; all but rank 0 end here, as they write nothing."""
    store, rank, world_size = next(rendezvous("env://"))
    spec = _made_once(make_spec, store, rank)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with (
        _process_group(device, rank=rank, world_size=world_size, store=store),
        _sigterm_as_notice() as notice,
    ):
        result = rank_function(spec, rank, world_size, report if rank == 0 else _unheard, notice)
    if rank:
        sys.exit(0)
    return result


def _made_once(make: Callable[[], SpecT], store: Any, rank: int) -> SpecT:
    """What ``make`` gives, on every rank; what keeps rank 0 from it ends all ranks alike.

    Rank 0 makes it first, and keeps in the artifact what it measured for it; the others wait, and
    then make the same from that. The store says in JSON that they may, and nothing more: whoever
    reaches its port can put there what he likes.
    """
    if rank == 0:
        try:
            made = make()
        except HistodiffError as error:
            store.set(_MADE, json.dumps({"error": type(error).__name__, "message": str(error)}))
            raise
        store.set(_MADE, json.dumps({"error": None}))
        return made
    store.wait([_MADE], _LONGEST_MAKING)
    _require_made(store.get(_MADE))
    return make()


def _require_made(told: bytes) -> None:
    """Raises the error of rank 0, if it had one; nothing that was sent is run."""
    try:
        news = json.loads(told)
        failed, message = news["error"], str(news.get("message"))
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            "torchrun: MASTER_PORT was given something that rank 0 does not send; close the port to"
            " all but the nodes of the run, and start it again"
        ) from error
    if failed is not None:
        raise _PLAIN_ERRORS.get(failed, HistodiffError)(message)


@contextmanager
def _process_group(device: str, *, rank: int, world_size: int, store: Any) -> Iterator[None]:
    """A process group for the time of the block, whose ranks meet in ``store``."""
    torch.distributed.init_process_group(
        _BACKENDS[device], store=store, rank=rank, world_size=world_size
    )
    try:
        with environment(_rank_variables(rank, world_size)):
            yield
    finally:
        torch.distributed.destroy_process_group()


def _own_store() -> Any:
    """A rendezvous for one rank, without a port."""
    return torch.distributed.HashStore()  # type: ignore[attr-defined]


def _rank_variables(rank: int, world_size: int) -> dict[str, str]:
    """What DeepSpeed reads; a local rank that is known already stays."""
    local_rank = os.environ.get("LOCAL_RANK", "0")
    return {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": local_rank}


def _run_under_ray(
    rank_function: RankFunction[SpecT, ResultT],
    spec: SpecT,
    *,
    ranks: Ranks,
    device: str,
    report: Reporting,
    max_failures: int,
    each: ActorResources,
) -> ResultT:
    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
    resources = {"CPU": each.num_cpus, "GPU": each.num_gpus}
    resources = {name: amount for name, amount in resources.items() if amount}
    with tempfile.TemporaryDirectory(prefix="histodiff-gang-") as scratch:
        trainer = TorchTrainer(
            _ray_rank,
            train_loop_config={"function": rank_function, "spec": spec, "mailbox": mailbox},
            torch_config=TorchConfig(backend=_BACKENDS[device], timeout_s=_TIMEOUT_SECONDS),
            scaling_config=ray.train.ScalingConfig(
                num_workers=ranks if isinstance(ranks, int) else (ranks.min, ranks.max),
                use_gpu=device == "cuda",
                resources_per_worker=resources,
            ),
            run_config=ray.train.RunConfig(
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=max_failures),
            ),
        )
        with _sigterm_as_notice() as notice, _exchange(mailbox, report, notice):
            outcome = _fitted(trainer, mailbox)
    error = ray.get(mailbox.fatal.remote())
    if error is not None:
        raise error
    result: ResultT = outcome
    return result


def _fitted(trainer: TorchTrainer, mailbox: Any) -> Any:
    """What rank 0 returned; None when a fatal error is in the mailbox.

    Ray Train runs in a thread, where it leaves Ctrl-C alone: its own handler waits for the gang to
    start before it stops it, and stays installed.
    """
    done: Future[Any] = Future()
    threading.Thread(target=_fit, args=(trainer, done), name="gang", daemon=True).start()
    try:
        return done.result().return_value
    except ray.train.WorkerGroupError as error:
        if ray.get(mailbox.fatal.remote()) is not None:
            return None
        raise TransientError(f"ranks failed too often: {error}") from error


def _fit(trainer: TorchTrainer, done: "Future[Any]") -> None:
    try:
        done.set_result(trainer.fit())
    except BaseException as error:  # handed to the main thread, which raises it
        done.set_exception(error)


def _ray_rank(config: dict[str, Any]) -> Any:
    """One rank, in a worker of Ray Train.

    A fatal error is put into the mailbox and then raised, which ends the gang at once, even where
    other ranks wait for this one. The restarted gang finds it there and ends in peace. Ranks that
    were told to go all go at the same step: there nobody waits, and no gang is started for nothing.
    """
    context, mailbox = ray.train.get_context(), config["mailbox"]
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if ray.get(mailbox.fatal.remote()) is not None:
        return None

    def post(report: Any) -> None:
        mailbox.put.remote(pickle.dumps(report))

    heard = post if rank == 0 else _unheard
    try:
        with _notices_of(mailbox) as notice:
            return config["function"](config["spec"], rank, world_size, heard, notice)
    except TransientError:
        raise
    except Preempted as error:
        ray.get(mailbox.fail.remote(error))
        return None
    except HistodiffError as error:
        ray.get(mailbox.fail.remote(error))
        raise


def _unheard(report: Any) -> None:
    """Takes the reports of ranks other than 0."""
    del report


@contextmanager
def _sigterm_as_notice() -> Iterator[Noticing]:
    """Turns the first SIGTERM into a notice to leave; only the main thread can."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: Notice.NONE
        return
    before = signal.getsignal(signal.SIGTERM)

    def hear(number: int, frame: Any) -> None:
        del number, frame
        _log.warning("SIGTERM: ending after this step and a checkpoint; once more ends at once")
        told.set()
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, hear)
    try:
        yield lambda: Notice.LEAVE if told.is_set() else Notice.NONE
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _notices_of(mailbox: Any) -> Iterator[Noticing]:
    """Notices to a rank of Ray Train: the driver's, and of nodes that are about to be reclaimed.

    A thread waits for the driver's, which may reach the ranks at different steps. Ray Train's
    is agreed upon by all ranks, which takes milliseconds, so it is asked for now and then only.
    """
    told, stop, calls = threading.Event(), threading.Event(), itertools.count()
    warned: set[str] = set()

    def listen() -> None:
        leaving = mailbox.until_leaving.remote()
        while not stop.is_set():
            if ray.wait([leaving], timeout=_POLL_SECONDS)[0]:
                ray.get(leaving)  # raises where the mailbox is gone
                told.set()
                return

    def notice() -> Notice:
        if told.is_set():
            return Notice.LEAVE
        if next(calls) % _PREEMPTION_CALLS == 0:
            info = ray.train.get_preemption_info()
            nodes = frozenset(info.preempted_node_ids) if info is not None else frozenset()
            if nodes - warned:
                warned.update(nodes)
                return Notice.SAVE
        return Notice.NONE

    thread = threading.Thread(target=listen, name="gang-notices", daemon=True)
    thread.start()
    try:
        yield notice
    finally:
        stop.set()
        thread.join()


@contextmanager
def _exchange(mailbox: Any, report: Reporting, notice: Noticing) -> Iterator[None]:
    """Hands on what the mailbox gets, and tells it to leave, from a thread."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_SECONDS):
            if notice() is Notice.LEAVE:
                mailbox.leave.remote()
            _hand_on(mailbox, report)

    thread = threading.Thread(target=poll, name="gang-reports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _hand_on(mailbox, report)


def _hand_on(mailbox: Any, report: Reporting) -> None:
    """Reports what rank 0 has reported since it was asked last."""
    posted = ray.get(mailbox.take.remote())
    if posted is not None:
        report(pickle.loads(posted))
