"""Which errors of the database are the client's, and which are nobody's but ours."""

from __future__ import annotations

import logging

import pytest

from dome_bridge.dome_api.refusals import refused_with
from dome_bridge.dpm.fenced import FENCE_MESSAGE, FENCE_SQLSTATE
from dome_bridge.dpm.source import ER_SIGNAL_EXCEPTION, ConnectionLostError, StatementError
from dome_bridge.errors import ApiError


@pytest.mark.parametrize("number", [1062, 1586, 1406, 1264, 1265, 1366, 1690, 1451, 1452])
def test_what_the_catalog_cannot_take_has_the_status_of_the_protocol(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ApiError, match=r"^Cannot add it: no room$") as refusal,
        refused_with(400, "Cannot add it"),
    ):
        raise StatementError("no room", number)
    assert refusal.value.status == 400
    assert caplog.records == []


@pytest.mark.parametrize(("number", "text"), [(1062, "it is there"), (1022, "it is there"), (1406, "no: x")])
def test_second_of_a_kind_has_words_of_its_own(number: int, text: str) -> None:
    with pytest.raises(ApiError, match=f"^{text}$"), refused_with(422, "no", twice="it is there"):
        raise StatementError("x", number)


@pytest.mark.parametrize(
    "error",
    [
        *(StatementError("lock or deadlock", number) for number in (1205, 1213, 1020)),
        *(StatementError("wrong statement", number) for number in (1054, 1064, 1146, 1048, 1644, 0)),
        StatementError(FENCE_MESSAGE, ER_SIGNAL_EXCEPTION, FENCE_SQLSTATE),
        ConnectionLostError("gone", 2013),
        ApiError(404, "not there"),
        ValueError("a defect"),
    ],
    ids=str,
)
def test_everything_else_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as passed, refused_with(422, "no", twice="no"):
        raise error
    assert passed.value is error
