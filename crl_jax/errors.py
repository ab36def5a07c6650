"""Errors that the command line answers with one message and no traceback."""


class UserError(Exception):
    """A mistake that the user can mend; the message says where it is and how.

    The command line prints only the message, without a traceback, and exits
    with status 2.
    """


class Diverged(UserError):
    """A run whose loss or gradient has become NaN or infinite."""


class Stopped(Exception):
    """A run was asked to stop, and did; the message says how to go on.

    The command line exits with 128 plus `number`, the number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
