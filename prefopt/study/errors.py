"""What the command line tells in one line of text."""


class StudyError(Exception):
    """Input that the study cannot use: the message names the file and the row; exit code 2."""


class Diverged(Exception):
    """A training whose loss or gradient is not finite; the worker ends, exit code 1."""
