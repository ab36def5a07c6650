"""The one exception for a user's mistake."""


class UserError(Exception):
    """A mistake that the user can mend; the message says where it is and how.

    The command line prints the message alone, without a traceback, and exits
    with status 2.
    """
