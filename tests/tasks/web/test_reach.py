import socket

import pytest

from tasks.errors import SourceError
from tasks.web.reach import ANYWHERE, Reach, host_of, is_private
from tests.support.recipes import recipe_of

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize(
    "url", ["http://[::1]:80/x", "http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://127.1/x"]
)
def test_urls_in_any_writing_are_refused_unless_named(url: str) -> None:
    with pytest.raises(SourceError, match=r"^http://.*: leads to a private address .* to limits\.private_hosts$"):
        Reach().check(url)
    Reach().naming(url).check(url)
    ANYWHERE.check(url)


def test_every_address_of_a_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(*_: object, **__: object) -> list[object]:
        return [(None, None, None, "", (address, 0)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with pytest.raises(
        SourceError, match=r"https://a\.example/\?token=\*\*\*: leads to a private address \(10\.0\.0\.1\)"
    ):
        Reach().check("https://a.example/?token=s3cr3t")
    assert Reach(allowed=frozenset({"10.0.0.1"})).addresses("a.example", 80) == ["8.8.8.8", "10.0.0.1"]
    assert Reach(named=frozenset({"a.example"})).addresses("a.example", 80) == ["8.8.8.8", "10.0.0.1"]


def test_a_name_that_means_nothing_is_left_to_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    Reach().check("http://nowhere.example/")
    Reach().check("no url at all")
    Reach().check_address("http://nowhere.example/")


def test_a_recipe_names_its_hosts_and_allows_others() -> None:
    labels = {"source": "pbf", "url": "https://Files.Example:8443/x.osm.pbf", "checksum": "http://[fd00::5]/x.md5"}
    limits = {"private_hosts": ["Storage.Internal", "10.0.0.7"]}
    reach = Reach.of(recipe_of("ign", {"labels": labels, "limits": limits}), ["see http://preset.example/a and more"])
    assert reach.named >= {"files.example", "fd00::5", "preset.example"}
    assert reach.allowed == {"storage.internal", "10.0.0.7"}
    assert reach.trusts("FILES.example.")
    assert not reach.trusts("other.example")
    reach.check("http://10.0.0.7:9000/x")


def test_hosts_of_urls() -> None:
    assert host_of("HTTP://User:pw@[::1]:80/x") == "::1"
    assert host_of("http://A.example./") == "a.example"
    assert host_of("http://[broken") == host_of("file.txt") == ""
