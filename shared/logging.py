"""Logs: one line for each thing that matters, for people or as JSON, through structlog.

Everything, libraries included, ends in one stream: standard error.
"""

import logging
import sys
from typing import Any

import structlog

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


def configure_logging(*, level: str, format_: str, service: str) -> None:
    """Set up logging for the process. `level` and `format_` as in ServiceSettings."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
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
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, least in _LIBRARIES.items():
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
        library.setLevel(least)
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> Any:
    """A logger whose calls take an event and key=value pairs: `log.info("joined", group=...)`."""
    return structlog.get_logger(name)
