"""A store in S3 whose endpoint is no S3: found out before Icechunk is let near it, and told without a credential."""

import time

import pytest

from tasks.errors import StoreError
from tasks.versions.read import versions
from tests.faults.cases import MIB, SECONDS
from tests.faults.doors import is_secret_in
from tests.support.fault_server import FaultServer
from tests.support.memory import Peak

FAULTS = (
    *("html", "empty", "status-403", "status-404", "redirect-elsewhere", "redirect-bare", "length-absurd"),
    *("endless-close", "endless-header", "bomb-gzip", "reset-first", "echo", "escapes", "never", "drip-headers"),
)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_endpoint_that_is_no_s3(fault: str, faults: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.versions.endpoint.SECONDS", 0.8)
    monkeypatch.setattr("tasks.versions.endpoint.ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", faults.url)
    peak, began = Peak(), time.monotonic()
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL") as caught:
        versions(f"s3://{fault}/small")
    assert time.monotonic() - began < SECONDS
    assert peak.mib() < MIB
    assert any(asked.fault == fault for asked in faults.asked)
    assert fault in str(caught.value)
    assert not is_secret_in(str(caught.value))
    assert str(caught.value).isprintable()
    assert not is_secret_in(faults.canary.heard)
