"""Python runs this when it starts with this folder on PYTHONPATH (`Hub.environment`).

The clients wait 1, 2, 4, 8 and 8 s between tries, and no setting shortens that. Here they wait a moment, and try as
often.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

LONGEST = 0.05  # seconds


def impatient(sleep: Callable[[Any], None]) -> Callable[[Any], None]:
    """A `time.sleep` that is short for huggingface_hub and datasets alone."""

    def nap(seconds: Any) -> None:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        sleep(min(seconds, LONGEST) if caller.split(".")[0] in ("huggingface_hub", "datasets") else seconds)

    return nap


if __name__ == "sitecustomize":
    time.sleep = impatient(time.sleep)
