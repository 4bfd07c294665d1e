"""Errors that are the input's fault, told in one line that names the value and the fix."""


class InputError(ValueError):
    """A bad value from the user: the message names the value and says what to do.

    Scripts print the message alone and exit with 1 (`saejax.cli.run`); library callers
    can catch it as a `ValueError`.

    Example:
      >>> import numpy as np, saejax
      >>> try:
      ...     saejax.match(np.eye(2), np.eye(3))
      ... except saejax.InputError as error:
      ...     print(str(error).split(";")[0])
      a has shape (2, 2) and b (3, 3): the widths 2 and 3 differ
    """
