"""A store in S3 whose endpoint is no S3: what Icechunk makes of it is told as ours, without a credential."""

import pytest

from tasks.errors import StoreError
from tasks.versions.read import versions
from tests.faults.doors import SECRET
from tests.support.fault_server import FaultServer
from tests.support.memory import Peak


@pytest.mark.parametrize(
    "fault",
    [
        "html",
        "empty",
        "status-403",
        "status-404",
        "redirect-elsewhere",
        "length-absurd",
        "endless-close",
        "echo",
        "escapes",
    ],
)
def test_an_endpoint_that_is_no_s3(fault: str, faults: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", faults.url)
    peak = Peak()
    with pytest.raises(StoreError, match=f"s3://{fault}/small: .*check the bucket, the AWS_") as caught:
        versions(f"s3://{fault}/small")
    assert any(asked.fault == fault for asked in faults.asked)
    assert peak.mib() < 300
    assert SECRET not in str(caught.value)
    assert str(caught.value).isprintable()
    assert not faults.canary.saw(SECRET)
