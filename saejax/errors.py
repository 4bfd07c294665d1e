"""Errors that are the input's fault, told in one line that names the value and the fix."""


class InputError(ValueError):
    """A bad value from the user: the message names the value and says what to do.

    Scripts print the message alone and exit with 1 (`saejax.cli.run`); library callers
    can catch it as a `ValueError`.
    """
