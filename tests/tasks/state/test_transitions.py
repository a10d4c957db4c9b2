from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.state.transitions import (
    CLOUDS,
    DENSITY,
    IGNORED,
    LABEL_REASONS,
    NO_LABEL,
    NODATA,
    UNREAD,
    Event,
    Image,
    Labels,
    Standing,
    State,
    after,
    from_state,
)

OF_LABELS = (Event.LABELS_ACCEPT, Event.LABELS_REJECT)
OF_IMAGES = tuple(event for event in Event if event not in OF_LABELS)
ANSWERS = tuple(image for image in Image if image is not Image.UNKNOWN)

Happening = tuple[Event, str, Image]


def happening(*events: Event) -> st.SearchStrategy[Happening]:
    """One of ``events`` with what was said."""
    answers = {
        "": Image.STAGED,
        NODATA: Image.REJECTED,
        CLOUDS: Image.REJECTED,
        "404": Image.ABSENT,
        "503": Image.FAILED,
    }
    said = {
        Event.LABELS_REJECT: st.tuples(st.sampled_from(LABEL_REASONS), st.just(Image.UNKNOWN)),
        Event.IMAGE_ANSWERED: st.sampled_from(list(answers.items())),
    }
    nothing = st.just(("", Image.UNKNOWN))
    return st.sampled_from(events).flatmap(lambda event: st.tuples(st.just(event), said.get(event, nothing))).map(flat)


def flat(one: tuple[Event, tuple[str, Image]]) -> Happening:
    return (one[0], *one[1])


histories = st.lists(happening(*Event), max_size=12)


def stands(history: list[Happening], start: Standing = Standing()) -> Standing:  # noqa: B008 - frozen
    return reduce(lambda standing, one: after(standing, *one), history, start)


@given(histories, histories)
def test_the_state_is_a_function_of_the_verdicts(one: list[Happening], other: list[Happening]) -> None:
    a, b = stands(one), stands(other)
    if (a.labels, a.image) == (b.labels, b.image):
        assert a.state is b.state
    if a == b:
        assert a.reason == b.reason


@given(histories, happening(*OF_LABELS))
def test_labels_leave_the_image_alone(history: list[Happening], event: Happening) -> None:
    before = stands(history)
    now = after(before, *event)
    assert (now.image, now.image_reason) == (before.image, before.image_reason)


@given(histories, happening(*OF_IMAGES))
def test_the_image_leaves_the_labels_alone(history: list[Happening], event: Happening) -> None:
    before = stands(history)
    now = after(before, *event)
    assert (now.labels, now.labels_reason) == (before.labels, before.labels_reason)


@given(st.lists(happening(*OF_LABELS), max_size=6), st.lists(happening(*OF_IMAGES), max_size=6), st.randoms())
def test_it_does_not_matter_how_the_two_interleave(labels: list[Happening], images: list[Happening], random) -> None:
    rest, mixed = [labels[:], images[:]], []
    while any(rest):
        mixed.append(random.choice([one for one in rest if one]).pop(0))
    assert stands(mixed) == stands(labels + images) == stands(images + labels)


@given(histories, st.sampled_from([Event.IMAGE_LOST, Event.IMAGERY_CHANGED, Event.RETRY]))
def test_what_forgets_does_so_once(history: list[Happening], event: Event) -> None:
    once = after(stands(history), event)
    assert after(once, event) == once


@given(histories, happening(*Event))
def test_being_told_twice_is_being_told_once(history: list[Happening], event: Happening) -> None:
    once = after(stands(history), *event)
    assert after(once, *event) == once


@given(histories)
def test_accepted_labels_stage_what_the_last_answer_staged(history: list[Happening]) -> None:
    answers = [one for one in history if one[0] in OF_IMAGES and one[0] is not Event.RETRY]  # no good image is retried
    staged = bool(answers) and answers[-1][2] is Image.STAGED
    assert (after(stands(history), Event.LABELS_ACCEPT).state is State.STAGED) == staged


@given(histories)
def test_what_was_forgotten_is_asked_for_again_once_labels_pass(history: list[Happening]) -> None:
    for event in (Event.IMAGE_LOST, Event.IMAGERY_CHANGED):
        assert after(after(stands(history), event), Event.LABELS_ACCEPT).state is State.SELECTED


@given(histories)
def test_a_retry_changes_failures_alone(history: list[Happening]) -> None:
    before = stands(history)
    now = after(before, Event.RETRY)
    assert (now == before) == (before.image is not Image.FAILED)
    assert now.state is not State.FAILED


@given(histories)
def test_only_a_rejection_a_failure_or_an_absence_has_a_reason(history: list[Happening]) -> None:
    now = stands(history)
    assert bool(now.reason) == (now.state in (State.REJECTED, State.FAILED, State.ABSENT))


@pytest.mark.parametrize(
    ("labels", "image", "state"),
    [
        *((Labels.UNKNOWN, image, State.PLANNED) for image in Image),
        *((Labels.REJECTED, image, State.REJECTED) for image in Image),
        (Labels.PASSED, Image.UNKNOWN, State.SELECTED),
        (Labels.PASSED, Image.STAGED, State.STAGED),
        (Labels.PASSED, Image.REJECTED, State.REJECTED),
        (Labels.PASSED, Image.ABSENT, State.ABSENT),
        (Labels.PASSED, Image.FAILED, State.FAILED),
    ],
)
def test_every_pair_of_verdicts_has_its_state(labels: Labels, image: Image, state: State) -> None:
    assert Standing(labels, "x", image, "y").state is state


@pytest.mark.parametrize(
    ("state", "reason", "has_image", "now", "once_labels_pass"),
    [
        ("planned", "", False, State.PLANNED, State.SELECTED),
        ("planned", "", True, State.PLANNED, State.STAGED),
        ("selected", "", False, State.SELECTED, State.SELECTED),
        ("kept", "", True, State.STAGED, State.STAGED),
        ("absent", "Tile not found", False, State.ABSENT, State.ABSENT),
        ("failed", "HTTP 503", False, State.FAILED, State.FAILED),
        ("rejected", NODATA, False, State.REJECTED, State.REJECTED),
        ("rejected", CLOUDS, False, State.REJECTED, State.REJECTED),
        *(
            ("rejected", reason, has_image, State.REJECTED, State.STAGED if has_image else State.SELECTED)
            for reason in (DENSITY, IGNORED, NO_LABEL, UNREAD)
            for has_image in (False, True)
        ),
    ],
)
def test_what_older_ledgers_say_goes_on(
    state: str, reason: str, has_image: bool, now: State, once_labels_pass: State
) -> None:
    standing = from_state(state, reason, has_image)
    assert (standing.state, standing.reason) == (now, reason)
    assert after(standing, Event.LABELS_ACCEPT).state is once_labels_pass
