"""Tests that docs/jobs.md describes the formats of the code."""

import re
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.jobs import webhook
from shell_runner.remote.jobs.states import RUNNING_PHASES, EndReason, State
from shell_runner.remote.protocol.model import Execution

TEXT = (Path(__file__).parents[4] / "docs" / "jobs.md").read_text()


def test_the_table_of_an_execution_is_its_fields() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", TEXT, re.MULTILINE)
    assert rows == [(str(place), name) for place, name in enumerate(Execution._fields)]


@pytest.mark.parametrize("word", [*State, *EndReason, *RUNNING_PHASES], ids=str)
def test_each_state_is_explained(word: str) -> None:
    section = TEXT.partition("### States")[2].partition("\n## ")[0]
    assert f"`{word}`" in section


def test_the_receiver_of_the_manual_knows_what_is_genuine() -> None:
    code = TEXT.partition("<!-- verify.py -->\n```python\n")[2].partition("```")[0]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    header = webhook.sign("sécret", b"{}")
    assert namespace["is_genuine"](b"{}", header, "sécret")
    assert not namespace["is_genuine"](b"{} ", header, "sécret")


def test_the_manual_says_how_often_an_address_is_tried() -> None:
    assert f"{webhook.MAX_RETRY_DELAY:.0f} seconds, {webhook.MAX_ATTEMPTS} times in\nall" in TEXT
