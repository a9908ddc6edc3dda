"""Everything httpqueue raises on purpose; a class's docstring is its default message."""


class HttpqueueError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class StartError(HttpqueueError):
    """httpqueue cannot start; the message is one line that names what to change.

    It calls a setting by its field, as in: setting `data_dir`. settings.name_variables makes it a variable.
    """


class SettingsError(StartError):
    """A setting has a value that cannot be used."""


class UnavailableError(HttpqueueError):
    """A Redis server does not answer, or refuses to work."""

    public = "Redis does not answer"
    """What clients are told. The message is for the log alone: it may name addresses."""


class StartingError(UnavailableError):
    """The process has just started, and does not know yet all that it needs."""

    public = "httpqueue is starting"


class RefusedError(UnavailableError):
    """A Redis server answers, but refuses to work."""


class InvalidTimerError(HttpqueueError):
    """The timer's description cannot be used."""


class NewerFormatError(InvalidTimerError):
    """The timer was written by a newer httpqueue."""
