"""Several processes as one run: flags, start, agreement on what is run, and the end together."""

import hashlib
import importlib.metadata
import json
import os
import signal
import socket
import sys
from typing import NoReturn

import jax
from absl import flags

from saejax import processes
from saejax.errors import InputError
from saejax.last_words import LastWords
from saejax.peers import CONTINUE, Peers
from saejax.progress import hide_progress
from saejax.rundir import commit
from saejax.train.interrupt import Interrupted

_MULTIHOST = flags.DEFINE_bool(
    "multihost",
    False,
    "One of several processes, which JAX finds: Slurm, Open MPI, GKE, Cloud TPU.",
)
_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, for one of several processes elsewhere."
)
_COUNT = flags.DEFINE_integer("num_processes", None, "How many they are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Number of this one, from 0.")
# Defaults of jax.distributed.initialize (initialization_timeout, heartbeat_timeout_seconds).
_JOIN_SECONDS = flags.DEFINE_integer(
    "initialization_seconds", 300, "Time for all processes to come together.", lower_bound=1
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "Time after which a silent process counts as dead.", lower_bound=1
)
_BARRIER_SECONDS = flags.DEFINE_float(
    "barrier_seconds",
    processes.PATIENCE_SECONDS,
    "Time to wait for a process that is alive but does not come.",
    lower_bound=0.1,
)
# What a process is told of itself, and how long it waits, may differ between processes.
OWN_FLAGS = {"process_id", "initialization_seconds", "heartbeat_seconds", "barrier_seconds"}
# How often JAX's own limit is ours: ours comes first, and tells more.
_LATER = 2
# Time to look whether an address answers, for the message.
_KNOCK_SECONDS = 2.0
# Versions of these can change what is computed or how processes talk.
_VERSIONED = ("jax", "jaxlib", "orbax-checkpoint", "grain", "numpy")


class Session:
    """This process among the others, from `start` until `finish` or `fail`."""

    def __init__(self, words: LastWords):
        self.words = words
        self.peers: Peers | None = None

    def say(self, line: str) -> None:
        """A line on stderr that names this process."""
        assert self.peers is not None
        self.peers.say(line)

    def finish(self) -> None:
        """Waits until all have done their work, and leaves JAX's runtime with them."""
        assert self.peers is not None
        self.peers.finish()
        jax.distributed.shutdown()
        self.words.close()

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process, and with it the others, in one line that names the process.

        A signal after which all have saved their work is no failure: they end together.
        """
        assert self.peers is not None
        if isinstance(error, Interrupted):
            self.finish()
            if jax.process_index() == 0:
                print(error, file=sys.stderr)
            sys.exit(0 if error.signum == signal.SIGTERM else 128 + error.signum)
        if isinstance(error, InputError):
            self.peers.fail(error, f"error: {' '.join(str(error).split())}")
        if isinstance(error, KeyboardInterrupt):
            self.peers.fail(error, f"interrupted; {CONTINUE}", code=128 + signal.SIGINT)
        if isinstance(error, SystemExit):
            if not error.code:
                self.finish()
                raise error
            self.peers.fail(error, str(error.code))
        self.peers.fail(error, None)


def start(several: str) -> Session | None:
    """Makes this process one of several, if the flags say so; before JAX looks for devices.

    Process 0 is the one that prints and shows progress; the others tell warnings and errors alone.
    Signals are left to the training loop: JAX's preemption service would take SIGTERM for itself.

    Args:
      several: "allowed", or "refused" for a script that one process has to itself.

    Returns:
      None for a process of its own.

    Raises:
      InputError: If the flags are incomplete or contradict each other, JAX finds no cluster, or
        the script is for one process.
    """
    address, count, process = _ADDRESS.value, _COUNT.value, _PROCESS.value
    explicit = {_ADDRESS.name: address, _COUNT.name: count, _PROCESS.name: process}
    given = [f"--{name}" for name, value in explicit.items() if value is not None]
    if not given and not _MULTIHOST.value:
        return None
    if several == "refused":
        raise InputError(
            f"{given[0] if given else '--multihost'}: this script is for one process, which uses "
            "all devices of its machine; leave the flag out"
        )
    if given and _MULTIHOST.value:
        raise InputError(f"--multihost finds what {', '.join(given)} would say: leave one out")
    if address is not None and count is not None and process is not None:
        _check(address, count, process)
    elif given:
        missing = [f"--{name}" for name, value in explicit.items() if value is None]
        raise InputError(
            f"{', '.join(missing)} missing: one of several processes needs --coordinator_address, "
            "--num_processes and --process_id, or --multihost"
        )
    session = Session(LastWords(lambda report: _explain(session, report)))
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            count,
            process,
            # Explicit flags mean what they say, under Slurm as well.
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=_JOIN_SECONDS.value,
            heartbeat_timeout_seconds=_LATER * _HEARTBEAT_SECONDS.value,
        )
    except (ValueError, RuntimeError) as error:
        session.words.close()
        if "should be defined" in str(error) or "must be defined" in str(error):
            raise InputError(
                "--multihost: JAX finds no Slurm, Open MPI, GKE or Cloud TPU here; say where the "
                "processes are with --coordinator_address=host:port --num_processes=N "
                "--process_id=i"
            ) from None
        raise InputError(f"cannot start several processes: {str(error).splitlines()[0]}") from None
    processes.be_patient(_BARRIER_SECONDS.value)
    process = jax.process_index()
    if process:
        hide_progress()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    hosts = processes.exchange(socket.gethostname(), "start")
    session.peers = Peers(processes.client(), process, hosts, _HEARTBEAT_SECONDS.value)
    return session


def agree(described: dict[str, str]) -> None:
    """Checks that all processes run the same: the given fields, the code and its libraries.

    Raises:
      InputError: If they do not, in all processes: with the fields, and their values in the first
        process that differs and in process 0.
    """
    described = described | {
        "commit of saejax": commit(),
        **{f"version of {name}": importlib.metadata.version(name) for name in _VERSIONED},
    }
    text = json.dumps(described, sort_keys=True)
    sums = processes.exchange(hashlib.sha256(text.encode()).hexdigest(), "comparing settings")
    if len(set(sums)) == 1:
        return
    other = next(i for i, checksum in enumerate(sums) if checksum != sums[0])
    texts = processes.exchange(text, "telling settings")
    first, there = json.loads(texts[0]), json.loads(texts[other])
    different = [
        f"{name}: {there.get(name, 'not set')} in process {other}, "
        f"{first.get(name, 'not set')} in process 0"
        for name in sorted(first.keys() | there.keys())
        if first.get(name) != there.get(name)
    ]
    raise InputError(
        f"the processes are not started alike ({'; '.join(different)}): give all of them the same "
        "flags and the same code"
    )


def _check(address: str, count: int, process: int) -> None:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator_address={address}: write host:port, as 10.0.0.1:1234")
    if count < 1:
        raise InputError(f"--num_processes={count}: at least 1")
    if not 0 <= process < count:
        raise InputError(
            f"--process_id={process}: numbers of {count} processes are 0 to {count - 1}"
        )


def _explain(session: Session, report: str) -> int:
    """Tells why JAX's runtime aborts this process; gives the exit code."""
    if session.peers is not None:
        return session.peers.aborted(report)
    from jax._src.distributed import global_state

    address, process = global_state.coordinator_address, global_state.process_id
    seconds = _JOIN_SECONDS.value
    if "ALREADY_EXISTS" in report:
        line = f"another process has the number {process} too: each needs its own --process_id"
    elif process and not _answers(str(address)):
        line = (
            f"coordinator {address} could not be reached within {seconds} s: is process 0 running "
            "there, and is the port open? (--coordinator_address, --initialization_seconds)"
        )
    else:
        line = (
            f"not all of {global_state.num_processes} processes came to coordinator {address} "
            f"within {seconds} s: look at which did not start (--num_processes, "
            "--initialization_seconds)"
        )
    print(f"process {process}: error: {line}", file=sys.stderr, flush=True)
    return 1


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError:
        return False
    return True
