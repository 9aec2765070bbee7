"""Errors that the user of a recipe can mend, and the way in which a recipe ends with one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """What was given cannot be used; the message says where and what to do. All the project's own errors are of it.

    But those of `hf_cxr.models`, which travels alone, and of programming.
    """


def run_recipe(main: Callable[[], None]) -> None:
    """Run a recipe; an error of its user ends it with one line, any other with its traceback."""
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {type(error).__name__}: {error}")
