"""What can be wrong with what a report of a change is made of."""

from hf_cxr.errors import UserError


class ChangeError(UserError, ValueError):
    """Tables, runs or files that cannot be compared or read; the message says where and what to do."""
