"""The whole error vocabulary, named for what the user did or met.

Every error the program raises on purpose is one of these. The command line prints the message and
leaves with ``exit_code``; it shows no traceback. A message names the file, key, URL (token removed)
or tile, says what was expected, and says what to do next.
"""

import re

from tasks.secrets import redact

MAX_MESSAGE = 2_000  # characters; of a longer one the middle is left out, for what to do next stands at the end
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # all control characters but \n


class TilewrightError(Exception):
    """Base of all expected errors.

    Whoever makes one, its message holds no secret, no control character, and at most MAX_MESSAGE characters.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shortened(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", redact(message)), MAX_MESSAGE))


def shortened(text: str, most: int) -> str:
    """``text`` in at most ``most`` characters, with an ellipsis for the middle where it is longer."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]} \N{HORIZONTAL ELLIPSIS} {text[-half:]}"


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


class UnforeseenError(TilewrightError):
    """Something that nobody foresaw: a fault of this program or of a library. Its traceback is in the file named."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h
