"""Numbers as people read them."""

import numpy as np


def percent(share: float) -> str:
    """A share in percent, to four digits that count: ``0.01%`` for 0.0001."""
    return f"{np.format_float_positional(100 * share, precision=4, fractional=False, trim='-')}%"
