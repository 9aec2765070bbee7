"""Errors that the user of a recipe can mend, and the way in which a recipe ends with one."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """What was given cannot be used; the message says where and what to do. All the project's own errors are of it.

    But those of `hf_cxr.models`, which travels alone, and of programming.
    """


def run_recipe(main: Callable[[], None], failed: int = 1) -> None:
    """Run a recipe; an error of its user ends it with one line, any other with its traceback.

    Args:
        failed: exit code of both, for a recipe that says something else by 1.
    """
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        said = f"{Path(sys.argv[0]).name}: {type(error).__name__}: {error}"
        if failed == 1:
            sys.exit(said)
        print(said, file=sys.stderr)
        sys.exit(failed)
    except Exception:  # a defect: told whole, and raised on but for the exit code
        if failed == 1:
            raise
        traceback.print_exc()
        sys.exit(failed)
