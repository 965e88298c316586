"""What a user must change, and what may pass by itself. Tested by tests/test_job.py."""


class UserError(Exception):
    """Something that the user must change.

    The message says what is wrong and what to do, in one or two lines. Caught once, at the boundary
    of a command (`tempo_ray.job.user_errors`): the process ends with this message and status 2.
    """


class TransientError(Exception):
    """A fault of a machine, a store or a process that may not recur: retried, then left for the
    next run. Not a property of the input."""
