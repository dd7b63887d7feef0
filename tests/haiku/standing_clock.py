"""`orchq` in a minute that does not end: how often a poem is asked for then follows from the test alone."""

from __future__ import annotations

import datetime as dt
import sys

from orchqueue.cli.start import main
from orchqueue.verify import haiku_words

MINUTE = 41


def always(instant: dt.datetime) -> int:
    """Read the same minute at any instant."""
    del instant
    return MINUTE


if __name__ == "__main__":
    haiku_words.minute_of = always
    sys.exit(main())
