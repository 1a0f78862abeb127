"""The exception that the command line turns into one line of text and exit code 2."""


class StudyError(Exception):
    """Input that the study cannot use: the message is one line, names the file and the row."""
