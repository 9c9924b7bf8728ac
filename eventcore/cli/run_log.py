"""What `eventcore run` writes to standard error: one line a log record, its facts behind it as `name=value`."""

from __future__ import annotations

import logging
import sys

import msgspec

from eventcore.cli.output import show_line
from eventcore.telemetry.attributes import EXCEPTION_STACKTRACE, OF_FIELD

#: What every record has, before anybody adds facts to it.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FIELD_OF = {attribute: field for field, attribute in OF_FIELD.items()}
_OURS = "eventcore."
#: Only a function that does not import gives a mapping's problem a traceback, and each try imports it anew.
TRIED_AGAIN = "it is tried again by itself: mend the file"
#: Libraries that log what they also raise: it is told as the mapping's problem.
_ECHOES = ("aiokafka", "confluent_kafka")
#: Lengths of a level's name and of most events' names: what comes behind stands in columns.
_LEVEL_WIDTH = 7
_NAME_WIDTH = 21


def log_to_stderr(verbosity: int) -> None:
    """Send every log record to standard error: from INFO on, with `-v` from DEBUG, with `-q` from WARNING.

    Other libraries are heard from WARNING on, with `-vv` from DEBUG.
    """
    # A reader that went away must not be told so by tracebacks.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FactsFormatter())
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbosity > 1 else logging.WARNING)
    if verbosity <= 0:
        for name in _ECHOES:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    own = logging.DEBUG if verbosity > 0 else logging.WARNING if verbosity < 0 else logging.INFO
    logging.getLogger("eventcore").setLevel(own)


class FactsFormatter(logging.Formatter):
    """Formats a record as `TIME LEVEL NAME fact=value ...`."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line; a traceback, where it carries one, on the lines behind it."""
        facts = " ".join(
            f"{_name(key)}={_value(value)}"
            for key, value in vars(record).items()
            if key not in _PLAIN and key != EXCEPTION_STACKTRACE
        )
        time, level = self.formatTime(record), record.levelname.ljust(_LEVEL_WIDTH)
        line = f"{time} {level} {show_line(record.getMessage()).ljust(_NAME_WIDTH)} {facts}".rstrip()
        lines = [line]
        if told := getattr(record, EXCEPTION_STACKTRACE, ""):
            lines += [f"  {show_line(part)}" for part in str(told).rstrip().splitlines()]
            lines.append(f"  {TRIED_AGAIN}")
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


def _name(attribute: str) -> str:
    return _FIELD_OF.get(attribute, attribute.removeprefix(_OURS))


def _value(value: object) -> str:
    if isinstance(value, str) and value and not any(sign in value for sign in ' ="\n\t'):
        return show_line(value)
    return show_line(msgspec.json.encode(value, enc_hook=repr).decode())
