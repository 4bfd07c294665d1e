"""How the scripts start and how they fail: one clear line, exit code 1, no traceback."""

import dataclasses
import difflib
import hashlib
import os
import platform
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from saejax import distributed
from saejax.config import Config
from saejax.config_check import check
from saejax.config_json import flatten
from saejax.errors import InputError
from saejax.files import cache_folder
from saejax.train.interrupt import Interrupted

# So that --help of a script has the flags that functions here define for it.
flags.disclaim_key_flags()

# Exit code of a process ended by Ctrl-C, by convention of the shell.
_EXIT_SIGINT = 128 + signal.SIGINT


def run(main: Callable[[Sequence[str]], None], *, several: str = "refused") -> None:
    """Runs an absl `main`, with the user's errors told in one line.

    Exit codes: 0 when done or stopped by SIGTERM with the work saved, 1 for an error of the
    input, 130 after Ctrl-C. As one of several processes, which flags of `saejax.distributed` say,
    also 1 when another one is missing or has failed; what is told then names the process.

    Args:
      main: What to run, after the flags are read.
      several: "allowed" if several processes may run `main` together, each with its part of the
        work and process 0 alone to write and print; "refused" if it is for one.
    """
    _keep_compiled()
    if several == "allowed":
        flags.adopt_module_key_flags(distributed)
    # One line, without the place in the source.
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    # JAX and orbax report the ordinary at INFO, which would tear the progress bars.
    logging.set_verbosity(logging.WARNING)

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}: flags start with --")
        if (session := distributed.start(several)) is None:
            main(argv)
            return
        warnings.showwarning = lambda message, *_, **__: session.say(f"warning: {message}")
        try:
            distributed.agree(_described())
            main(argv)
        except BaseException as error:
            session.fail(error)
        session.finish()

    try:
        app.run(guarded, flags_parser=_parse)
    except InputError as error:
        sys.exit(_one_line(f"error: {error}"))
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(0 if error.signum == signal.SIGTERM else _EXIT_SIGINT)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(_EXIT_SIGINT)


def _keep_compiled() -> None:
    """Has JAX keep what it compiles for the next command, unless the user chose a place or none.

    A folder for each kind of CPU, since code compiled for one may stop with an illegal
    instruction on another that shares the home directory.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    kind = hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:12]
    folder = cache_folder("compiled") / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def define_config() -> flags.FlagHolder:
    """Defines `--config=FILE`, with `--config.<field>=value` for every field."""
    return config_flags.DEFINE_config_file(
        "config", None, "Configuration file; fields are set as --config.sae.k=32."
    )


def config(flag: flags.FlagHolder) -> Config:
    """The checked configuration behind a `--config` flag.

    Raises:
      InputError: If the file cannot be read, does not give a `Config`, or a value is wrong.
    """
    if flag.value is None:
        raise InputError("--config is missing: name a file, as in --config=configs/quickstart.py")
    try:
        cfg = flag.value
        if isinstance(cfg, Config):
            check(cfg)
            return cfg
        # ml_collections hands out an object that raises the file's error when it is used.
        cfg.init_seeds  # noqa: B018
    except InputError:
        raise
    except (OSError, AttributeError, SyntaxError, ImportError) as error:
        raise InputError(f"--config: {error}") from None
    raise InputError(f"--config: get_config() must return a saejax.Config, not {type(cfg)}")


def config_sweep(flag: flags.FlagHolder) -> dict[str, dict[str, Any]]:
    """What `get_sweep()` of the `--config` file gives; {} without such a function.

    Raises:
      InputError: If it does not map names to fields and values.
    """
    path = config_flags.get_config_filename(flags.FLAGS[flag.name])
    get_sweep = runpy.run_path(path).get("get_sweep", dict)
    sweep = get_sweep()
    if not isinstance(sweep, dict) or not all(isinstance(c, dict) for c in sweep.values()):
        raise InputError(
            f"{path}: get_sweep() must return fields and values by name of the run, as "
            '{"k=64": {"sae.k": 64}}'
        )
    return sweep


def _described() -> dict[str, str]:
    """All flags that scripts and saejax define, and the fields of a configuration, by name."""
    described: dict[str, str] = {}
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("absl."):
            continue
        for flag in defined:
            if flag.name in distributed.OWN_FLAGS or flag.name.startswith("config."):
                continue
            if isinstance(flag.value, Config):
                fields = flatten(flag.value).items()
                described |= {f"--config.{path}": str(value) for path, value in fields}
            else:
                described[f"--{flag.name}"] = str(flag.value)
    return described


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; an unknown field of the configuration becomes an `InputError`."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise InputError(f"{error}; --help lists the flags") from None
    except (KeyError, AttributeError) as error:
        # ml_collections raises these for `--config.no.such.field`.
        for argument in argv:
            name = argument.lstrip("-").partition("=")[0]
            if name.startswith("config.") and name[7:] not in _FIELDS:
                close = difflib.get_close_matches(name[7:], _FIELDS, n=3, cutoff=0.5)
                hint = f"did you mean {', '.join(close)}?" if close else "see saejax/config.py"
                raise InputError(f"--{name}: no such field of the configuration; {hint}") from None
        raise InputError(f"cannot read the flags: {error}") from None


def _fields(cls: type, prefix: str = "") -> list[str]:
    names: list[str] = []
    for field in dataclasses.fields(cls):
        names.append(prefix + field.name)
        if dataclasses.is_dataclass(field.type):
            names += _fields(field.type, f"{prefix}{field.name}.")  # pyright: ignore[reportArgumentType]
    return names


_FIELDS = _fields(Config)
