"""The command lines ``train`` and ``evaluate``: Hydra around the jobs, every user error one line, exit codes.

Exit codes: 0; 2 an error the user can mend; 1 a sweep with failures, or an error of our own; 130 or 143 interrupted by
Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from medassay.cli.evaluate import run_evaluate
from medassay.cli.help import name_program
from medassay.cli.train import run_train
from medassay.config.command_line import format_shell_override
from medassay.config.messages import explain
from medassay.core.errors import ConfigError
from medassay.core.interrupts import terminable
from medassay.sweeps.directory import register_resolvers

FAILED, USER_ERROR = 1, 2


def main(command: str, argv: Sequence[str]) -> int:
    """Runs ``command`` (``train`` or ``evaluate``) with the arguments ``argv`` and gives the exit code.

    A user error is one line on standard error; ``hydra.verbose=true`` shows the traceback too.
    """
    register_resolvers()
    logging.raiseExceptions = False  # a log on a full disk is not worth a traceback a line
    action = {"train": run_train, "evaluate": run_evaluate}[command]
    try:
        _refuse_bytes(argv)
        with terminable():
            return action(list(argv))
    except KeyboardInterrupt as error:
        run = getattr(error, "run", None)
        again = (
            "" if run is None else f"; continue with: {name_program('train')} {format_shell_override('resume', run)}"
        )
        _say(f"interrupted{again}")
        return 128 + int(getattr(error, "signum", signal.SIGINT))
    except BrokenPipeError:  # whoever reads the output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except SystemExit as error:  # argparse: --help, or a flag that there is not
        return error.code if isinstance(error.code, int) else USER_ERROR
    except Exception as error:
        message = explain(error)
        if message is None or any(a.lower() in ("hydra.verbose=true", "hydra.verbose=1") for a in argv):
            logging.getLogger(__name__).exception("unexpected error")
        _say(message or f"unexpected {type(error).__name__}: {error}")
        return FAILED if message is None else USER_ERROR


def _refuse_bytes(argv: Sequence[str]) -> None:
    """Raises :class:`ConfigError` for an argument that is no text: a configuration could not be saved with it."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{argument} is not UTF-8: rename the file or folder, or name a link to it") from None


def train_entry() -> None:
    """The console script ``medassay-train``."""
    sys.exit(main("train", sys.argv[1:]))


def evaluate_entry() -> None:
    """The console script ``medassay-evaluate``."""
    sys.exit(main("evaluate", sys.argv[1:]))


def _say(line: str) -> None:
    print(f"medassay: {line}", file=sys.stderr)
