"""What may go wrong with a GPU VM, and the exit code of each."""

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
