"""The choice of a host and of a job from what the user typed and from the local records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from ..config import Config, load_config
from ..config_file import find_root
from ..errors import UsageError
from ..hosts.spec import HostSpec, format_spec, parse_specs
from ..jobs import submitted_jobs
from ..jobs.client import JobClient
from ..text import quote_command
from .console import print_message


def _parse_host(text: str) -> HostSpec:
    """Return one host by its spec, or by its name in the nosejobs.toml of this tree."""
    root = find_root(Path.cwd())
    inventory = load_config(root) if root else Config(Path.cwd())
    if text not in inventory.hosts and (known := _find_recorded_host(text)):
        return known
    specs = parse_specs([text], inventory.hosts)
    if len(specs) != 1:
        raise UsageError(f"--host={text}: a job runs on one host, not {len(specs)}")
    return specs[0]


def list_hosts_with_jobs() -> Mapping[str, HostSpec]:
    """Return the hosts that have jobs submitted from here, by the spec that can be typed."""
    newest_last = reversed(submitted_jobs.list_all())
    return {format_spec(replace(each.host, slots=0)): each.host for each in newest_last}


def _find_recorded_host(name: str) -> HostSpec | None:
    """Return the recorded host of this name; None for an unknown one, or for a spec."""
    if name in ("auto", "popen") or any(mark in name for mark in ("=", "//", "*", ",")):
        return None
    specs = {text: spec for text, spec in list_hosts_with_jobs().items() if spec.id == name}
    if len(specs) > 1:
        texts = "\n  ".join(f"--host {quote_command(text)}" for text in sorted(specs))
        raise UsageError(f"--host={name}: several hosts with jobs have this name:\n  {texts}")
    return next(iter(specs.values()), None)


def choose_host(text: str | None, job: str = "") -> HostSpec:
    """Return the host that ``text`` names; without it the only one that has jobs from here.

    ``job`` is what the user typed for a job that is not on record.  Raises :exc:`UsageError` if
    there is no such host, or more than one.
    """
    if text:
        return _parse_host(text)
    known = list_hosts_with_jobs()
    if len(known) == 1:
        return next(iter(known.values()))
    if job:
        raise UsageError(f"no local record of job {job}; name its host with --host")
    texts = "".join(f"\n  --host {quote_command(text)}" for text in sorted(known))
    names = f" There are jobs on{texts}" if known else ""
    raise UsageError(f"no host given.{names}\n  try: --host SPEC, or NOSEJOBS_HOST=SPEC")


def is_host_from_environment() -> bool:
    """Return whether --host has its value from ``$NOSEJOBS_HOST``."""
    source = click.get_current_context().get_parameter_source("host")
    return source is ParameterSource.ENVIRONMENT


@contextmanager
def open_client(spec: HostSpec) -> Iterator[JobClient]:
    """Yield a client of a host; close it at the end."""
    client = JobClient(spec, show_message=print_message)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def open_job(text: str, host: str | None) -> Iterator[tuple[JobClient, str]]:
    """Open the host of a job; yield its client and the UUID that begins with ``text``.

    ``host`` is the value of --host.  Raises :exc:`UsageError` for what is not a UUID.
    """
    text = text.lower()
    if len(text) < submitted_jobs.MIN_ID_CHARS or not all(c in "0123456789abcdef-" for c in text):
        raise UsageError(
            f"{text!r} is not a job; give its UUID or at least its first"
            f" {submitted_jobs.MIN_ID_CHARS} characters"
        )
    source = click.get_current_context().get_parameter_source("host")
    # The record of a job takes precedence over the variable, which names the usual host.
    record = None if source is ParameterSource.COMMANDLINE else submitted_jobs.find(text)
    with open_client(record.host if record else choose_host(host, text)) as client:
        yield client, record.id if record else client.find_id(text)
