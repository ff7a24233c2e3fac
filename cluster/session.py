"""Ray, started or joined for the time of one command.

A local Ray belongs to the command that started it. Authentication is left to Ray: a new local Ray
makes and uses a token by itself (``~/.ray/auth_token``); a running cluster is joined, where
``RAY_AUTH_MODE`` is ``token``, with the token in ``RAY_AUTH_TOKEN``, in the file that
``RAY_AUTH_TOKEN_PATH`` names, or in ``~/.ray/auth_token``.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError

import histodiff
from histodiff.cluster.environment import environment
from histodiff.cluster.site import ClusterRay, LocalRay, RayConfig
from histodiff.errors import ConfigError, TransientError
from histodiff.runtime.memory import ONE_ARENA

_CONNECT_SECONDS = 5.0
_TOO_SLOW = "timed out during startup"  # ray raises a bare Exception
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Ray as ``config`` says, for the time of the block; one that is there already is used.

    Nothing is started for ``type: none``.

    Raises:
        ConfigError: The cluster cannot be reached, or refuses the token.
        TransientError: A local Ray does not start in time.
    """
    if isinstance(config, LocalRay):
        started = not ray.is_initialized()
        if started:
            _start(config)
    elif isinstance(config, ClusterRay):
        started = not ray.is_initialized()
        if started:
            _join(config)
    else:
        started = False
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def code_environment() -> dict[str, str]:
    """Environment variables with which a process on this machine imports this histodiff.

    Only a source checkout needs any; an installed histodiff is found without.
    """
    repository = Path(histodiff.__file__).resolve().parent.parent
    if not (repository / "pyproject.toml").is_file():
        return {}
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(repository), inherited]))}


def _start(config: LocalRay) -> None:
    # inherited by Ray's processes; a runtime_env would cost a process of its own for every actor
    try:
        # "local" starts a new Ray even where RAY_ADDRESS names another one
        with environment(ONE_ARENA | code_environment()):
            ray.init(
                address="local",
                num_cpus=config.num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        if _TOO_SLOW not in str(error):
            raise
        raise TransientError(
            "Ray did not start within its 30 s, so this machine is too busy; run the same command"
            " again, or without Ray (--local)"
        ) from error


def _join(config: ClusterRay) -> None:
    _require_listening(config.address)
    # a submitted job has the environment that it was submitted with
    own = {} if _JOB_VARIABLE in os.environ else {"env_vars": ONE_ARENA | code_environment()}
    try:
        ray.init(
            address=config.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=own,
        )
    except AuthenticationError as error:
        raise ConfigError(
            f"ray.address '{config.address}': the cluster refuses the token; set"
            " RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or put the cluster's token"
            " (`ray get-auth-token`) into ~/.ray/auth_token"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"ray.address '{config.address}': no cluster can be joined ({reason}); start one with"
            " `ray start --head`, or use ray.type=local"
        ) from error


def _require_listening(address: str) -> None:
    """Finds out at once what Ray finds out after a minute."""
    host, separator, port = address.rpartition(":")
    if not separator or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"ray.address '{address}': nothing answers there ({error}); start a cluster with"
            " `ray start --head`, or use ray.type=local"
        ) from error
