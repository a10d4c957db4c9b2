"""What every message of ours is, whoever makes it."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import MAX_MESSAGE, LabelError, shortened


@given(st.text(st.characters(), max_size=6000))
def test_a_message_is_printable_and_bounded(text: str) -> None:
    told = str(LabelError(text))
    assert len(told) <= MAX_MESSAGE
    assert all(
        character == "\n" or character.isprintable() or character not in map(chr, range(32)) for character in told
    )
    told.encode("utf-8")  # no half of a surrogate pair


def test_what_to_do_next_is_never_cut_off() -> None:
    told = str(LabelError(f"a.geojson: {'x' * 10_000} is odd; replace it"))
    assert told.startswith("a.geojson: xxx")
    assert told.endswith("xxx is odd; replace it")


@given(st.text(), st.integers(10, 50))
def test_a_shortened_text_has_both_ends(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= most
    assert short == text if len(text) <= most else short[:3] == text[:3] and short[-3:] == text[-3:]
