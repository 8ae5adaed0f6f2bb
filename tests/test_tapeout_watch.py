"""What a build says while it runs."""

from tapeout.pipeline import STAGES
from tapeout.watch import TITLES


def test_every_stage_has_words_for_people() -> None:
    assert TITLES.keys() == {stage.name for stage in STAGES}
