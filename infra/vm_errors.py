"""Errors of the GPU VM commands with their exit codes, and output that survives a closed terminal."""

import os
import sys
from typing import Final

REMEDY: Final = 2  # the user can correct it; nothing runs that did not run before
BROKEN: Final = 1  # it failed for an unknown reason; nothing runs that did not run before
MAY_RUN: Final = 3  # something may still run and cost money
INTERRUPTED: Final = 130


class VmError(RuntimeError):
    """A message for a person, with the exit code of the command."""

    def __init__(self, message: str, code: int = REMEDY) -> None:
        super().__init__(message)
        self.code = code


def say(text: object, *, error: bool = False) -> None:
    """Print without a buffer; a closed terminal or broken pipe is no error, so that a removal still completes."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
