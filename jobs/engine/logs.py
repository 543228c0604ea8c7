"""What a job says: lines for people and logs, from which credentials are taken out."""

import logging
import sys

from jobs.storage.redaction import redact

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_NOISY = ("ray", "ray.data", "ray.train", "botocore", "aiobotocore", "s3fs", "fsspec", "urllib3", "asyncio")


def show(text: str) -> None:
    """Prints what a job has to say, as every job does it: text from elsewhere cannot take hold of the terminal."""
    print(redact(text), flush=True)


def complain(text: str) -> None:
    """As `show`, on the standard error output."""
    print(redact(text), file=sys.stderr, flush=True)


class _RedactingFormatter(logging.Formatter):
    """Takes credentials out of the finished line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _StderrHandler(logging.Handler):
    """Writes to what is the standard error output now, not to what it was when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:
            self.handleError(record)


def set_up_logging() -> None:
    """Our messages and everybody's warnings go to the standard error output, without credentials. Once a process."""
    root = logging.getLogger()
    if not any(isinstance(handler.formatter, _RedactingFormatter) for handler in root.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_RedactingFormatter(_LOG_FORMAT, datefmt="%H:%M:%S"))
        # Ray sets the levels of its own loggers, and later than we can.
        handler.addFilter(lambda record: record.levelno >= logging.ERROR or not record.name.startswith("ray."))
        root.addHandler(handler)
    for name in ("jobs", "mami_core", "__main__"):  # the last is the job's own module, run with `python -m`
        logging.getLogger(name).setLevel(logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
