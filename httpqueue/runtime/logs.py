"""Logs on stderr: a stable event name and fields, as JSON for machines or as text for people."""

import logging
import sys
from enum import StrEnum

import structlog


class LogFormat(StrEnum):
    """AUTO writes text on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


def configure(log_format: LogFormat, level: str) -> None:
    """Set up our logs (structlog) and those of libraries (logging) in the same format.

    Libraries log warnings and errors only: below that, httpx logs whole URLs, and others whole headers.
    Tracebacks show no values of variables.
    level: a name such as "info". Raises KeyError when there is no such level.
    """
    is_text = log_format is LogFormat.TEXT or (log_format is LogFormat.AUTO and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [_text_renderer()]
        if is_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


def _text_renderer() -> structlog.dev.ConsoleRenderer:
    # If rich is installed, structlog would have it show all local variables.
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
