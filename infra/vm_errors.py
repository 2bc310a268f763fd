"""What may go wrong with a GPU VM, the exit code of each, and how a person is told."""

import os
import sys
from typing import Final

REMEDY: Final = 2  # the caller can put it right; nothing runs that did not run before
BROKEN: Final = 1  # it failed for a reason that we do not know; nothing runs that did not run before
MAY_RUN: Final = 3  # something may still run and cost money
INTERRUPTED: Final = 130


class VmError(RuntimeError):
    """A message for a person, with the exit code of the command."""

    def __init__(self, message: str, code: int = REMEDY) -> None:
        super().__init__(message)
        self.code = code


def say(text: object, *, error: bool = False) -> None:
    """Prints at once. Where nobody listens (a closed terminal, a broken pipe), what has to be removed is removed all the same."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
