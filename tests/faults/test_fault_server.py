"""The fault server does what its faults say, as a client without bounds sees it."""

import ssl
import urllib.error
import urllib.request
import zlib

import pytest

from tests.support.fault_answers import said
from tests.support.fault_server import FAULTS, FaultServer


def ask(url: str, seconds: float = 5.0) -> bytes:
    """A body, of any status; of what has no end, the first megabyte."""
    opener = urllib.request.build_opener(urllib.request.HTTPHandler(), urllib.request.HTTPSHandler())
    try:
        with opener.open(url, timeout=seconds) as answer:
            return bytes(answer.read(1 << 20))
    except urllib.error.HTTPError as error:
        with error:
            return error.read()


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len(set(FAULTS)) == len(FAULTS) > 90


def test_what_is_asked_is_noted_and_a_page_goes_before_the_fault(faults: FaultServer) -> None:
    assert ask(f"{faults.at('html')}/any/where?key=value").startswith(b"<!DOCTYPE html>")
    faults.pages["/html/good"] = said(b"good")
    assert ask(f"{faults.at('html')}/good") == b"good"
    assert [(asked.fault, asked.method, asked.target) for asked in faults.asked] == [
        ("html", "GET", "/html/any/where?key=value"),
        ("html", "GET", "/html/good"),
    ]
    faults.forget()
    assert (faults.asked, faults.pages) == ([], {})


def test_what_has_no_end_fills_a_megabyte(faults: FaultServer) -> None:
    for fault in ("endless-close", "endless-chunks", "endless-length"):
        assert len(ask(faults.at(fault))) == 1 << 20


def test_bombs_are_small_until_they_are_unpacked(faults: FaultServer) -> None:
    for fault in ("bomb-gzip", "bomb-deflate"):
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        assert len(inflater.decompress(ask(faults.at(fault)), 1 << 26)) == 1 << 26


def test_redirects_lead_to_the_canary(faults: FaultServer) -> None:
    assert ask(f"{faults.at('redirect-elsewhere')}/x?token=abc") == b"what nobody may have"
    assert ask(faults.redirect(f"{faults.canary.url}/private") + "/x") == b"what nobody may have"
    assert "token=abc" in faults.canary.heard
    assert len(faults.canary.asked) == 2


@pytest.mark.parametrize("fault", ["never", "never-body", "tls-silent"])
def test_silence(fault: str, faults: FaultServer) -> None:
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        ask(faults.at(fault), 0.1)


@pytest.mark.parametrize("fault", ["tls-for-http", "http-for-tls", "tls-self-signed", "refused"])
def test_what_is_wrong_below_http(fault: str, faults: FaultServer) -> None:
    with pytest.raises((OSError, ssl.SSLError)):
        ask(faults.at(fault))
