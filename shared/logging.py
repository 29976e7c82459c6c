"""Logs: one line for each thing that matters, for people or as JSON, through structlog.

Everything, libraries included, ends in one stream: standard error. An event fills no more than so many lines a second,
and users are named as LOG_USER_IDS says (shared/log_lines.py).
"""

import logging
import sys
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog

from shared.log_lines import Limiter, UserIds, hide_users

# From which level on a library's lines are let through. Chatty or secret-bearing below WARNING:
# websockets prints frames, aiokafka each request. uvicorn warns of each malformed request, and
# opentelemetry of each malformed tracestate, so that any client or producer could fill the log.
_LIBRARIES = {
    "aiokafka": logging.WARNING,
    "asyncio": logging.WARNING,
    "httptools": logging.WARNING,
    "opentelemetry": logging.WARNING,
    "opentelemetry.trace": logging.ERROR,
    "urllib3": logging.ERROR,
    "uvicorn": logging.ERROR,
    "uvicorn.access": logging.ERROR,
    "uvicorn.error": logging.ERROR,
    "websockets": logging.WARNING,
}


def configure_logging(
    *, level: str, format_: str, service: str, user_ids: UserIds = "hash", filters: Sequence[logging.Filter] = ()
) -> None:
    """Set up logging for the process. `level`, `format_` and `user_ids` as in ServiceSettings.

    `filters` see lines before they are limited. One that leaves lines out has the next one that it lets through say
    how many, in the record's `suppressed`.
    """
    limiter = Limiter(time.monotonic)

    def limit(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # What operators did is never left out.
        left_out = 0 if fields.get("audit") else limiter.admit(str(fields.get("event")))
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            fields["suppressed"] = left_out
        return fields

    def say_service(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # Not a context variable: libraries' threads do not have ours.
        fields["service"] = service
        return fields

    def name_users(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        hide_users(fields, user_ids)
        return fields

    shared: list[Any] = [
        say_service,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any
    if format_ == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[limit, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_say_suppressed, *shared],
            # Users last, where ours and libraries' lines have become text, tracebacks included.
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, name_users, renderer],
        )
    )
    # The limit is the last: a line that says how many were left out is not left out by another.
    for each in (*filters, _LibraryLimit(limiter)):
        handler.addFilter(each)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, least in _LIBRARIES.items():
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
        library.setLevel(least)


class _LibraryLimit(logging.Filter):
    """The same limit for lines of libraries, by their format strings. Ours have passed it."""

    def __init__(self, limiter: Limiter) -> None:
        super().__init__()
        self._limiter = limiter

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str):
            return True
        left_out = self._limiter.admit(record.msg)
        if left_out is None:
            return False
        record.suppressed = getattr(record, "suppressed", 0) + left_out
        return True


def _say_suppressed(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What the filters counted, as a field."""
    if left_out := getattr(fields.get("_record"), "suppressed", 0):
        fields["suppressed"] = left_out
    return fields


def get_logger(name: str) -> Any:
    """A logger whose calls take an event and key=value pairs: `log.info("joined", group=...)`."""
    return structlog.get_logger(name)
