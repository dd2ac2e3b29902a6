"""Protocols in words: what stands on boards, model cards and the registry's versions."""

from typing import Any

import pytest

from segcore.protocols import as_seen, in_words
from segcore.tables import TestTime


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "whole"),
        ({"flip": True}, "whole + flip"),
        ({"resize": 520}, "short side 520"),
        ({"resize": (473, 472), "flip": True}, "stretched to 473x472 + flip"),
        ({"resize": 480, "crop": (480, 320)}, "short side 480, its middle 480x320"),
        ({"window": (480, 481), "stride": (320, 321)}, "480x481 windows every 320x321"),
        ({"scales": (0.5, 1.0, 1.75), "flip": True}, "3 scales of 0.5 to 1.75 + flip"),
        ({"resize": 520, "scales": (1.25,)}, "short side 520, scale 1.25"),
    ],
)
def test_a_protocol_is_said_in_words(how: dict[str, Any], words: str):
    assert in_words(TestTime(**how)) == words


def test_images_that_were_seen_otherwise_are_told():
    assert as_seen("whole", {"images": 9}) == "whole"
    assert as_seen("whole", {"seen_in_other_windows": 2}) == "whole, but for 2 in other windows"
