"""Fixtures: a client of a host's queue, in private state folders."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.jobs.client import JobClient
from tests.helpers import job_hosts
from tests.helpers.job_hosts import POPEN


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with job_hosts.isolate_state(tmp_path):
        yield tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[JobClient]:
    with JobClient(POPEN) as job_client:
        yield job_client


@pytest.fixture
def id() -> str:
    return str(uuid.uuid4())
