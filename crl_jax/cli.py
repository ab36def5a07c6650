"""How every verb reads its flags, and answers a user's mistake with one message."""

import argparse
import ast
import errno
import itertools
import os
import runpy
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from absl import logging
from ml_collections import ConfigDict

from crl_jax import config_check
from crl_jax.errors import Stopped, UserError
from crl_jax.streams import discard

# The help on --batch_size, for every verb that has it.
BATCH_SIZE = "over all devices; default: as in training"


def parser(verb: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of `python -m crl_jax.<verb>`; its help is a docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m crl_jax.{verb}",
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # the called function has the defaults
    )


class _HelpFormatter(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fits paragraphs to the terminal; indented lines stay as they are."""
        fill = textwrap.TextWrapper(width, break_on_hyphens=False).fill
        lines = text.splitlines()
        groups = itertools.groupby(lines, lambda line: line[:1] not in ("", " "))
        return "\n".join(
            fill(" ".join(part)) if is_prose else "\n".join(part)
            for is_prose, part in groups
        )


def path(text: str) -> Path:
    """Returns the path that a flag's text stands for; `~` is the home folder.

    Raises:
      argparse.ArgumentTypeError: the text is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return Path(os.path.expanduser(text))  # Path's own fails for unknown users


def positive(text: str) -> int:
    """Returns the whole number above 0 that a flag's text stands for.

    Raises:
      argparse.ArgumentTypeError: the text is no such number.
    """
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def add_config(verb: argparse.ArgumentParser) -> None:
    """Adds `--config=FILE`; `read` then also takes `--config.a.b=value`."""
    verb.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        type=path,
        help="such as configs/digits.py; set individual fields with --config.a.b=value",
    )


def add_workdir(verb: argparse.ArgumentParser, help_text: str) -> None:
    """Adds `--workdir=DIR`."""
    verb.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        type=path,
        help=help_text,
    )


def add_data_of_run(verb: argparse.ArgumentParser, or_other: bool = False) -> None:
    """Adds the flags that say on what, and how, a run is evaluated.

    Args:
      verb: the verb's parser.
      or_other: whether a list other than the run's may be given, `--on=FILE`.
    """
    add = verb.add_argument
    add("--split", help="such as val, or train[:10%%]; default: the run's test split")
    add("--batch_size", type=positive, help=BATCH_SIZE)
    where = verb.add_mutually_exclusive_group()
    where.add_argument(
        "--manifest", type=path, metavar="FILE", help="where the run's manifest is now"
    )
    add("--data_dir", type=path, metavar="DIR", help="where the run's shards are now")
    if or_other:
        help_text = "another list of pictures, with tasks and classes of the run"
        where.add_argument("--on", type=path, metavar="FILE", help=help_text)


def add_processes(verb: argparse.ArgumentParser) -> None:
    """Adds the flags that say which processes compute together."""
    group = verb.add_argument_group(
        "several machines",
        "Detected on Slurm, Open MPI and Kubernetes (indexed jobs, TPU pods);\n"
        "elsewhere, give these flags to each process.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="first process")
    group.add_argument("--processes", metavar="N", type=positive, help="how many")
    group.add_argument("--process", metavar="I", type=int, help="which one, from 0")


def read(
    verb: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Returns the parsed arguments; `config` among them is a checked config.

    Args:
      verb: the verb's parser.
      arguments: of the command line; None: those of this process.

    Raises:
      UserError: an unknown argument, or a mistake in the config.
    """
    known, rest = verb.parse_known_args(arguments)
    overrides = []
    for argument in rest:
        name, equals, text = argument.partition("=")
        if not name.startswith("--config.") or "config" not in known:
            raise UserError(
                f"{argument!r} is not an argument of this command: see --help."
            )
        if not equals:
            raise UserError(f"{argument} has no value: write {argument}=VALUE.")
        overrides.append((name.removeprefix("--config."), text))
    if "config" in known:
        known.config = load_config(known.config, overrides)
    return known


def load_config(
    file: str | os.PathLike[str], overrides: Sequence[tuple[str, str]] = ()
) -> ConfigDict:
    """Returns the checked config of a file, with some fields replaced.

    Args:
      file: a Python file that defines `get_config()`.
      overrides: dotted field names and their values as text.

    Raises:
      UserError: the file cannot be read or run, or a field or value is wrong.
    """
    # A file may need what only the command line gives.
    config = config_check.complete(_run_config_file(Path(file)))
    for name, text in overrides:
        _set(config, name, text)
    return config_check.check(config)


def _find_config_file(file: Path) -> Path:
    """Returns the file if it exists, otherwise this package's config of that name."""
    if file.is_file():
        return file
    package = Path(__file__).parent
    # Beside the package in a clone, inside it when installed.
    folders = (package.parent / "configs", package / "configs")
    if file.parent in (Path(), Path("configs")):
        for folder in folders:
            if (found := folder / f"{file.stem}.py").is_file():
                return found
    shipped = {path.stem for folder in folders for path in folder.glob("[!_]*.py")}
    raise UserError(
        f"--config={file}: there is no such file. Those that come with this package "
        f"are {', '.join(f'configs/{name}.py' for name in sorted(shipped))}."
    )


def _run_config_file(file: Path) -> ConfigDict:
    file = _find_config_file(file)
    try:
        get_config = runpy.run_path(str(file)).get("get_config", lambda: None)
        config = get_config()
    except Exception as error:  # whatever the user's file raises
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        raise UserError(
            f"--config={file}, line {lines[-1] if lines else '?'}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={file} must define get_config(), which returns a ConfigDict: "
            "begin it with `config = default()` from crl_jax.config, and end it with "
            "`return config`."
        )
    return config


def _set(config: ConfigDict, name: str, text: str) -> None:
    """Sets the field `name` to the value that `text` stands for."""
    config_check.set_field(config, name, value_of(name, text))


def value_of(name: str, text: str) -> Any:
    """Returns the value that a text stands for in the field `name`.

    Raises:
      UserError: there is no such field.
    """
    expected = config_check.expected_value(name)
    value: Any = text
    if not isinstance(expected, str):
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            value = {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(expected, tuple) and isinstance(value, (int, float)):
        return (value,)
    return value


# Whether this process exists for a verb, and not for a user's own program.
is_command = False


def run(main: Callable[[], None]) -> None:
    """Runs a verb; a `UserError` is printed as one message, with exit status 2.

    A run that a signal stopped exits with 128 plus the signal's number, as in shells.
    """
    # What libraries log is not for users: their errors are raised, too.
    global is_command
    logging.set_verbosity(logging.FATAL)
    is_command = True
    try:
        main()
    except UserError as error:
        _print_error(f"error: {error}")
        _leave(2)
    except Stopped as stopped:
        _print_error(str(stopped))
        sys.exit(128 + stopped.number)
    except BrokenPipeError:  # whoever read the output has had enough, such as head
        discard(sys.stdout)
        _leave(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _print_error("Stopped.")
        _leave(128 + signal.SIGINT)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_NAMES:
            _print_error(f"error: {error.filename}: {error.strerror}.")
            _leave(2)
        if "RESOURCE_EXHAUSTED" in str(error) and "No space left" not in str(error):
            _print_error(f"error: {_OUT_OF_MEMORY}\n{error}")
            _leave(2)
        with suppress(OSError):
            traceback.print_exc()
        _leave(1)


# What the system says of a name: a folder that may not be entered, one that is no
# folder, a circle of links, a name that is too long.
_OF_NAMES = (errno.EACCES, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

_OUT_OF_MEMORY = (
    "A device has too little memory for this. To use less: a smaller "
    "config.data.batch_size, config.train.accumulate=4 (a batch in four parts), "
    "config.model.dtype=bfloat16, or config.model.remat=2,3; for a network that is "
    "already trained, a smaller --batch_size; for seeds side by side, --together=1."
)


def _print_error(message: str) -> None:
    from crl_jax.terminal import printable  # its import would slow --help down

    try:
        print(printable(message), file=sys.stderr)
    except OSError:  # nobody reads it any more
        discard(sys.stderr)


def _leave(status: int) -> NoReturn:
    """Exits; at once if there are other processes, which learn of it only this way.

    They wait for this one in their step, and at a normal exit it would wait for them.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)
    sys.exit(status)
