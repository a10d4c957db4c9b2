"""Patterns that recipes hold: paths with placeholders and ``*``, and regular expressions. Both match in linear time.

Expressions are RE2's, which reads a name once whatever the expression is; Python's own may take years over one.
"""

import re
from collections.abc import Collection
from typing import Any

import re2  # type: ignore[import-untyped]

MAX_PATH = 1000  # characters of a path with placeholders
MAX_EXPRESSION = 500  # characters of a regular expression
MAX_STARS = 3  # that stand for part of a name, in a path that names a placeholder twice
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def path_pattern(value: str, placeholders: Collection[str]) -> str:
    """``value`` when it is a path with these placeholders. Raises ValueError that says what is wrong with it."""
    if len(value) > MAX_PATH:
        raise ValueError(f"has {len(value):,} characters; a path has at most {MAX_PATH:,}")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise ValueError("holds a control character; expected a path")
    valid = ", ".join(f"{{{name}}}" for name in placeholders)
    names = PLACEHOLDER.findall(value)
    if unknown := sorted(set(names) - set(placeholders)):
        raise ValueError(f"unknown placeholder {{{unknown[0]}}} in {value}; valid: {valid}")
    if re.search("[{}]", PLACEHOLDER.sub("", value)):
        raise ValueError(f"a brace of {value} stands alone; braces stand around placeholders: {valid}")
    if "**" in value:
        raise ValueError("* stands for anything within one name and comes alone; write folder/*/name for any folder")
    if re.search(r"(\{[^{}]*\})\1", value):
        raise ValueError("a placeholder stands twice in a row, so that nobody can tell where one ends")
    *folders, last = value.split("/")
    if last in ("", ".", ".."):
        raise ValueError(f"{value} names a folder; expected the path of files")
    wild = [bool(re.search("[*{]", folder)) for folder in folders]
    if any(folder == ".." and any(wild[:at]) for at, folder in enumerate(folders)):
        raise ValueError(".. comes after a placeholder or *; write the path without it")
    if len(set(names)) < len(names) and sum(part.count("*") for part in value.split("/") if part != "*") > MAX_STARS:
        raise ValueError(f"a path that names a placeholder twice takes {MAX_STARS} * at most that are parts of a name")
    return value


def compiled(expression: str) -> Any:
    """What searches for an expression. Raises ValueError when it is none that RE2 knows, or longer than it may be."""
    if len(expression) > MAX_EXPRESSION:
        raise ValueError(f"has {len(expression):,} characters; a regular expression has at most {MAX_EXPRESSION}")
    try:
        return linear(expression)
    except (re2.error, UnicodeError) as error:
        told = error.args[0] if error.args else ""
        told = told.decode(errors="replace") if isinstance(told, bytes) else str(error)
        raise ValueError(
            f"is no regular expression that can be used ({told}); it is read by RE2, which has no look-around such as "
            r"(?=...) or (?<!...) and no back-references such as \1"
        ) from None


def linear(expression: str) -> Any:
    """RE2's own compiled expression, of any length."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(expression, options)
