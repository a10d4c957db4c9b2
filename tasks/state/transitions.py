"""What becomes of a sample: a pure function of what its labels said and what asking for its image came to.

The two are recorded apart, and what happens to one leaves the other alone. So a sample that labels reject keeps its
staged image, and is staged again at once when labels let it pass later; one that is absent at the source is not asked
for again because a footprint moved.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

DENSITY = "density"
IGNORED = "ignored labels"
NO_LABEL = "no label"
UNREAD = "label cannot be read"
LABEL_REASONS = (DENSITY, IGNORED, NO_LABEL, UNREAD)  # of rejections that labels decide, before any imagery
NODATA = "nodata"
CLOUDS = "clouds"


class State(StrEnum):
    """What became of a candidate."""

    PLANNED = "planned"  # its labels are not known yet
    REJECTED = "rejected"  # by its labels, or for too much nodata or cloud
    SELECTED = "selected"  # labels pass, imagery is to be asked for
    ABSENT = "absent"  # the source has no such image; not asked again
    FAILED = "failed"  # every attempt went wrong; the next run asks again
    STAGED = "staged"  # good imagery on disk


class Labels(StrEnum):
    """What labels said."""

    UNKNOWN = ""
    PASSED = "passed"
    REJECTED = "rejected"


class Image(StrEnum):
    """What asking for the image came to."""

    UNKNOWN = ""
    STAGED = "staged"
    REJECTED = "rejected"
    ABSENT = "absent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Standing:
    """The two verdicts on a sample, each with its reason."""

    labels: Labels = Labels.UNKNOWN
    labels_reason: str = ""
    image: Image = Image.UNKNOWN
    image_reason: str = ""

    @property
    def state(self) -> State:
        """What became of the sample."""
        if self.labels is Labels.UNKNOWN:
            return State.PLANNED
        if self.labels is Labels.REJECTED:
            return State.REJECTED
        return State.SELECTED if self.image is Image.UNKNOWN else State(self.image.value)

    @property
    def reason(self) -> str:
        """Why it became that; "" where it needs no reason."""
        if self.labels is Labels.REJECTED:
            return self.labels_reason
        return self.image_reason if self.labels is Labels.PASSED else ""


class Event(StrEnum):
    """What can happen to a sample."""

    LABELS_ACCEPT = "labels accept"
    LABELS_REJECT = "labels reject"
    IMAGE_ANSWERED = "image answered"  # with the verdict given
    IMAGE_LOST = "image lost"  # its staged file is gone or damaged
    IMAGERY_CHANGED = "imagery changed"  # what is asked for is something else now
    RETRY = "retry"  # a new run begins


def after(standing: Standing, event: Event, reason: str = "", image: Image = Image.UNKNOWN) -> Standing:
    """How a sample stands after ``event``. ``reason`` and ``image`` say what the labels, or the source, said."""
    match event:
        case Event.LABELS_ACCEPT:
            return replace(standing, labels=Labels.PASSED, labels_reason="")
        case Event.LABELS_REJECT:
            return replace(standing, labels=Labels.REJECTED, labels_reason=reason)
        case Event.IMAGE_ANSWERED:
            return replace(standing, image=image, image_reason=reason)
        case Event.RETRY if standing.image is not Image.FAILED:
            return standing
        case Event.IMAGE_LOST | Event.IMAGERY_CHANGED | Event.RETRY:
            return replace(standing, image=Image.UNKNOWN, image_reason="")


def from_state(state: str, reason: str, has_image: bool) -> Standing:
    """The verdicts behind a state as ledgers before schema 3 recorded it: one word and an English reason."""
    if state == "planned":
        return Standing(image=Image.STAGED if has_image else Image.UNKNOWN)
    if state == "rejected" and reason in LABEL_REASONS:
        return Standing(Labels.REJECTED, reason, Image.STAGED if has_image else Image.UNKNOWN)
    if state == "selected":
        return Standing(Labels.PASSED)
    return Standing(Labels.PASSED, "", Image.STAGED if state == "kept" else Image(state), reason)
