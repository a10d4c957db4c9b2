"""One case of the matrix: a way to ask meets a fault, and how it must end."""

import logging
import re
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import TilewrightError
from tasks.state.ledger import Fetched
from tasks.state.transitions import Image
from tests.faults.doors import LIMITS, Visit, is_secret_in
from tests.support.fault_answers import ANSWERING, DRIPPING, ENDLESS, RESET, SENT
from tests.support.fault_server import CONNECTIONS
from tests.support.memory import Peak

TIMEOUT = 0.8  # seconds that a request may take in the cases that nothing else ends
SECONDS = 15.0  # that a case may take, with what a busy machine adds
MIB = 300  # of memory that it may take
LENGTH = 1500  # characters of a message

JSON = tuple(name for name in SENT if name.startswith("json-"))
XML = tuple(name for name in SENT if name.startswith("xml-"))
# What only time ends; met together, as all there is to it is waiting.
SLOW = (*DRIPPING, "tls-silent", "endless-continue", "endless-trailers")
HTTP = tuple(
    name
    for name in (*SENT, *RESET, *ENDLESS, *ANSWERING, *CONNECTIONS)
    if not name.startswith(("json-", "xml-", "pages-", "redirect-to")) and name not in SLOW
)
"""Whatever can be wrong with an exchange: for one door of every client that the program has."""
CORE = (
    *("length-long", "length-absurd", "chunk-garbage", "partial", "unchanged", "no-content", "bomb-gzip", "gzip-short"),
    *("html", "empty", "not-text", "escapes", "headers-many", "status-garbage", "closed", "redirect-nowhere"),
    *("redirect-invalid", "redirect-file", "redirect-self", "redirect-chain", "redirect-elsewhere", "redirect-bare"),
    *("echo", "status-401", "status-403", "status-404", "status-500", "status-503", "wait-long", "wait-date"),
    *("reset-first", "reset-body", "endless-close", "endless-length", "endless-error", "endless-header"),
    *("tls-self-signed", "http-for-tls", "refused"),
)
"""What shows in what a source makes of it: for its other doors."""

_TOO_SLOW = r"within|less than|time|takes|no answer|no connection"
_TOO_MUCH = r"limits\.max_(answer_mb|download_gb)|body over|no parts of files"
WORDS = {
    r"never.*|drip-(status|headers|body|chunks|continue)|tls-silent": _TOO_SLOW,
    r"endless-continue": _TOO_SLOW,
    r"length-absurd|bomb-(gzip|deflate)|endless-(close|chunks|length)": _TOO_MUCH,
    r"html": r"web page|HTML|text/html|JSON|listing",
    r"redirect-(self|loop|chain|nowhere|invalid|port|file|ftp)": r"redirect|30\d|moved|invalid HTTP answer",
    r"tls-self-signed": r"TLS failed: self-signed certificate",
    r"http-for-tls": r"TLS failed",
    r"refused": r"refused|cannot reach|cannot connect",
    r"status-401": r"401",
    r"status-403": r"403",
    r"status-500": r"500",
    r"status-503": r"503",
    r"reset-.*": r"reset|connection lost|short body",
    r"wait-(long|date|503)": r"limits\.patience|too long",
}
"""Faults, and what a message must say of them."""
# What may be there after a failure: parts of downloads, notes on them, and a listing that came whole.
_KEPT = r"(pbf|archives)/[0-9a-f]{12}/(\.[\w.-]+\.json|[\w.-]+\.part)|source-coop/[0-9a-f]{12}\.json"


@dataclass(frozen=True)
class Door:
    """A way by which the program asks, and which faults it meets."""

    enter: Callable[[Visit], list[Fetched]]
    faults: Collection[str] = CORE
    slow: Collection[str] = SLOW
    may_pass: bool = False  # what is asked there is not needed
    says: bool = True  # what is wrong in WORDS; GDAL has its own

    @property
    def name(self) -> str:
        """Of the function."""
        return self.enter.__name__


def cases(doors: Sequence[Door]) -> list[Any]:
    """For ``parametrize``: every door with each of its faults."""
    return [pytest.param(door, fault, id=f"{door.name}-{fault}") for door in doors for fault in door.faults]


def meet(door: Door, visit: Visit, fault: str) -> None:
    """Enter, and see that it ends soon, in words, and that nothing is given away or left half done."""
    began, told, raised, outcomes = time.monotonic(), "", False, list[Fetched]()
    try:
        outcomes = door.enter(visit)
    except TilewrightError as error:
        told, raised = str(error), True
    seconds = time.monotonic() - began
    if not raised:
        assert outcomes or door.may_pass, "it was taken for good"
        allowed = (Image.FAILED, Image.ABSENT) if fault == "no-content" else (Image.FAILED,)
        assert all(one.reason and one.image in allowed for one in outcomes)
        told = "; ".join(one.reason for one in outcomes)
    assert fault in CONNECTIONS or any(asked.fault == fault for asked in visit.faults.asked), f"never came: {told}"
    assert seconds < SECONDS, told
    assert not is_secret_in(told)
    assert told.isprintable(), "a terminal would obey it"
    assert len(told) < LENGTH
    if raised:
        assert "127.0.0.1" in told, told
    if told and door.says:
        for pattern, words in WORDS.items():
            assert not re.fullmatch(pattern, fault) or re.search(words, told), told
    assert not is_secret_in(visit.faults.canary.heard)
    if told:
        _assert_nothing_half(visit.work)


def _assert_nothing_half(work: Path) -> None:
    """No file that a later run would take for whole, none without an owner, no secret in any."""
    for path in (found for found in work.rglob("*") if found.is_file()):
        name = str(path.relative_to(work))
        assert re.fullmatch(_KEPT, name), name
        assert not is_secret_in(name + path.read_bytes().decode("latin-1"))
        assert path.stat().st_size <= LIMITS["max_download_gb"] * 1e9 + 1e6


def one_fault(door: Door, fault: str, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    """A case, its memory and its log included."""
    caplog.set_level(logging.DEBUG)
    peak = Peak()
    meet(door, replace(visit, bad=visit.faults.at(fault), attempts=2 if fault.startswith("wait-") else 1), fault)
    assert peak.mib() < MIB
    assert not is_secret_in(caplog.text)


def slow_faults(door: Door, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    """The cases that wait, at once where a door has no setting of the whole process."""
    caplog.set_level(logging.DEBUG)
    peak = Peak()
    with ThreadPoolExecutor(len(door.slow)) as pool:
        running = []
        for fault in door.slow:
            folder = visit.folder / fault
            folder.mkdir()
            one = replace(visit, bad=visit.faults.at(fault), folder=folder, timeout=TIMEOUT)
            running.append(pool.submit(meet, door, one, fault))
        for fault, ended in zip(door.slow, running, strict=True):
            if (error := ended.exception()) is not None:
                raise AssertionError(fault) from error
    assert peak.mib() < MIB
    assert not is_secret_in(caplog.text)
