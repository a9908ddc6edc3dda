"""Logs on stderr: a stable event name and fields, as JSON for machines or as text for people."""

import logging
import sys
from enum import StrEnum

import structlog

_FOREIGN_LEVELS = {"arq": logging.WARNING, "uvicorn": logging.WARNING, "asyncio": logging.WARNING}


class LogFormat(StrEnum):
    """AUTO writes text on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


def configure(log_format: LogFormat, level: str) -> None:
    """Set up our logs (structlog) and those of libraries (logging) in the same format.

    level: a name such as "info". Raises KeyError when there is no such level.
    """
    is_text = log_format is LogFormat.TEXT or (log_format is LogFormat.AUTO and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
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
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for name, foreign_level in _FOREIGN_LEVELS.items():
        logging.getLogger(name).setLevel(max(foreign_level, threshold))
