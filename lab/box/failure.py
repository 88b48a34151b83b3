"""The one error of the box's build that people see."""


class BoxFailed(Exception):
    """The box could not be built; the message says why and what to do, the details are in the log."""
