"""How a report words packages that are not there."""

from targets.errors import NotForModel, StageFailed
from validate.assemble import reasons
from validate.report import Failure


def test_what_a_model_has_no_use_for_did_not_fail() -> None:
    found = reasons(
        [],
        (
            Failure("w4-sym-g128", "compile", NotForModel.__name__, "groups of 128 do not divide 576", "nothing"),
            Failure("w8-sym", "compile", StageFailed.__name__, "it crashed", "look"),
        ),
    )
    assert found == "w4-sym-g128: not made: groups of 128 do not divide 576; w8-sym: compile failed: it crashed"
