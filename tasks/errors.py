"""The whole error vocabulary, named for what the user did or met.

Every error the program raises on purpose is one of these. The command line prints the message and
leaves with ``exit_code``; it shows no traceback. A message names the file, key, URL (token removed)
or tile, says what was expected, and says what to do next.
"""

from tasks.secrets import redact


class TilewrightError(Exception):
    """Base of all expected errors. Its message holds no secret, whoever made it and wherever it goes."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class RecipeError(TilewrightError):
    """A recipe or training configuration was refused: unknown key, wrong type, impossible value."""

    exit_code = 2


class AreaError(TilewrightError):
    """The area yields no tile, too many tiles, or cannot be found."""

    exit_code = 2


class LabelError(TilewrightError):
    """A label source could not be read, or answered with less than it was asked for."""


class CredentialError(TilewrightError):
    """A token is missing, or the source refused it."""


class TermsError(TilewrightError):
    """A source's terms were not accepted."""


class SourceError(TilewrightError):
    """An imagery source refuses every request alike (unknown tileset, bad zoom, server down)."""


class WindowReadError(TilewrightError):
    """One sample could not be read, also not at a further attempt. It is recorded as failed and the run goes on.

    The message is short and without URLs' tokens: it becomes the ledger's reason.
    """


class TooManyFailedError(TilewrightError):
    """More samples failed than the recipe allows; the ledger keeps what was done."""


class NothingSelectedError(TilewrightError):
    """No tile passes the filter, so there is no version to make."""


class StoreError(TilewrightError):
    """A store cannot be opened, holds another recipe, or lacks the version asked for."""


class BusyError(TilewrightError):
    """Another build holds the same store."""


class DiskError(TilewrightError):
    """The disk is full or cannot be written."""


class TrainingError(TilewrightError):
    """Training cannot start or go on (configuration does not fit the store, loss is not finite)."""


class DeploymentError(TilewrightError):
    """A deployment could not be started on the Prefect server, or its run did not complete."""


class SandboxError(TilewrightError):
    """The sandbox cannot serve (port taken, unknown fault)."""
