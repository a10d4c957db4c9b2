"""Tokens in recipes: typed ones are refused, and ``{env:NAME}`` stands for what an environment variable holds.

A recipe is kept in stores, in Prefect's database and in Git, so nothing in it may be secret. :func:`filled` is asked
where a URL or header of the recipe is about to be used, and nowhere before.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from tasks.errors import CredentialError
from tasks.secrets import (
    HIDDEN,
    find_secret,
    hide_by_name,
    is_harmless_header,
    is_secret_header,
    redact_values,
    remember,
    remember_url,
)

_VARIABLE = re.compile(r"\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_SECRET_PLACEHOLDER = re.compile(r"\{token\}|" + _VARIABLE.pattern)
_INSTEAD = "keep it in an environment variable and write {env:NAME}, with the variable's name, in its place"
_NAMES = "token secret pass pwd key auth sig credential appid jwt session licen tk sas"  # parts of names, for a pattern
# What stores hold *** for since the first: their hashes and identities stay as they are.
_AS_STORED = re.compile(
    r"(?i)([?&;](?:access_token|token|key|api[_-]?key|sig|signature|password|secret"
    r"|x-amz-(?:signature|credential|security-token))=)[^&\s'\"<>#]+"
)


def filled(url: str, key: str) -> str:
    """A URL of a recipe, of the key ``key``, with every ``{env:NAME}`` replaced by what that variable holds.

    A value is encoded for its place, but one that stands for a whole part of the query (``?{env:NAME}``), which is one
    already. It is remembered as a secret. Raises CredentialError for a variable that is not set.
    """

    def value(match: re.Match[str]) -> str:
        found = _variable(match[1], key)
        if url[: match.start()].endswith(("?", "&")):
            remember_url(f"?{found}")
            return quote(found, safe="%/:?&=+,;~")
        return quote(found, safe="")

    return _VARIABLE.sub(value, url)


def filled_header(text: str, key: str) -> str:
    """What a header of a recipe says, with every ``{env:NAME}`` replaced by what that variable holds, as it is.

    Raises CredentialError for a variable that is not set.
    """
    return _VARIABLE.sub(lambda match: _variable(match[1], key), text)


def _variable(name: str, key: str) -> str:
    if found := find_secret(name):
        return found
    raise CredentialError(f"{key}: the environment variable {name} is not set; set it to what {{env:{name}}} is for")


def without_variables(text: str) -> str:
    """``text`` without its ``{env:NAME}``."""
    return _VARIABLE.sub("", text)


def typed_tokens(values: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Where a recipe's values, as they were read, hold a token: the dotted key, and what is wrong and to be done.

    No message shows a value.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from (_typed_headers if key == "headers" else typed_tokens)(value, (*at, str(key)))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from typed_tokens(value, (*at, str(index)))
    elif isinstance(values, str) and _holds_token(values):
        yield ".".join(at), f"a token or login is written in it; {_INSTEAD}"


def _typed_headers(headers: Any, at: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if headers is not None and not isinstance(headers, Mapping):
        yield ".".join(at), "expected a mapping of headers to what they say"
        return
    for name, value in (headers or {}).items():
        key = ".".join((*at, str(name)))
        if not isinstance(value, str):
            yield key, "expected a text in quotes"
        elif _SECRET_PLACEHOLDER.search(value) or value in ("", HIDDEN):
            continue
        elif is_secret_header(str(name)) or _holds_token(value):
            yield key, f"this header holds a secret; {_INSTEAD}"
        elif not is_harmless_header(str(name)):
            remember(value)


def _holds_token(text: str) -> bool:
    """Whether something in ``text`` is secret by its name or looks, and does not come by a placeholder."""
    plain = _PLACEHOLDER.sub("", text).replace(HIDDEN, "")
    plain = re.sub(r"(?<=://)[^\s:@/]*:@", "", plain)  # a user without a password
    return hide_by_name(plain) != plain


def typed_pattern() -> str:
    """A regular expression, as JSON Schema has them, that finds a typed token in ``key=value`` changes of a recipe.

    For those who keep such changes before a recipe can be read, as Prefect does with a run's parameters. It finds
    more than :func:`typed_tokens`, which tells what is wrong.
    """
    named = "|".join("".join(f"[{letter}{letter.upper()}]" for letter in word) for word in _NAMES.split())
    given = r"(?!.*\{(?:token|env:[A-Za-z0-9_]+)\})"
    harmless = r"(?!\.(?:Accept|Accept-Language|Origin|Referer|User-Agent)=)"
    query = rf"[?&;#][^=&\s]*(?:{named})[^=&\s]*=[^&\s{{]"
    login = r"://(?:[^/\s{]*@|[^/\s{@:]*:(?!\d+/)[^\s{]*@)"
    return rf"{query}|{login}|headers{harmless}{given}"


def told_headers(headers: Mapping[str, str]) -> list[str]:
    """Names of headers whose values nobody but the server is to be told, and that stand in the recipe."""
    return [
        name
        for name, value in headers.items()
        if value and not is_harmless_header(name) and not _SECRET_PLACEHOLDER.search(value)
    ]


def as_stored(values: Any) -> Any:
    """A recipe's values as stores hold them and hashes cover them."""
    return redact_values(values, lambda text: _AS_STORED.sub(rf"\1{HIDDEN}", text))
