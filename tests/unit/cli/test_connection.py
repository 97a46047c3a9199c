"""What `connected` adds to a client."""

from __future__ import annotations

import logging

import pytest

from donabe.cli import connection


def test_a_warning_that_comes_with_every_answer_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("donabe.client")
    with connection._told_once("donabe.client"):
        for text in ("no GPU is used", "no GPU is used", "option x is not known"):
            logger.warning("%s", text)
    logger.warning("no GPU is used")
    assert caplog.messages == ["no GPU is used", "option x is not known", "no GPU is used"]
