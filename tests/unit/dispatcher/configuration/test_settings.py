"""Tests of dispatcher.toml."""

import json
from pathlib import Path

import pytest

from dispatcher.configuration.settings import Pool, Retention, Settings, Source, explain, parse
from dispatcher.sources import git_command
from shell_runner.config import HostEntry
from shell_runner.errors import InvalidConfig

HERE = Path("/etc/nosejobs")
FULL = """\
[dispatcher]
data = "/var/lib/nosejobs"
listen = "[::1]:8000"
poll = "1m"
lease = 300
quarantine = 5
queue = 1
[sources.app]
git = "git@example.org:app.git"
branches = ["main", "release/*"]
paths = ["src/**"]
bursts = "every"
[sources.near]
git = "../near.git"
poll = 5
[sources.drop]
directory = "drop"
[hosts.big]
spec = "ssh=ci@big"
slots = 8
labels = ["linux", "gpu"]
cache = "4GiB"
[hosts.agent1]
spec = "agent=agent1:7422"
[hosts.plain]
[pools.spare]
kind = "local"
labels = ["linux"]
max_hosts = 4
idle_timeout = "10m"
max_jobs = 100
options = { image = "x", sizes = [1, { a = 2.5 }] }
[retention]
age = "30d"
builds = 5
levels = ["ship", "published"]
"""


def test_all_keys() -> None:
    assert parse(FULL, HERE) == Settings(
        Path("/var/lib/nosejobs"), "::1", 8000, 60.0, 300.0, 5, 1,
        (
            Source("app", "git@example.org:app.git", "", ("main", "release/*"), ("src/**",),
                   "every", 60.0),
            Source("near", "/etc/nosejobs/../near.git", poll=5.0),
            Source("drop", directory="/etc/nosejobs/drop", poll=60.0),
        ),
        {
            "big": HostEntry("big", "ssh=ci@big", 8, ("linux", "gpu"), 4 << 30),
            "agent1": HostEntry("agent1", "agent=agent1:7422"),
            "plain": HostEntry("plain", "ssh=plain"),
        },
        (Pool("spare", "local", ("linux",), 4, 600.0, 100,
              {"image": "x", "sizes": [1, {"a": 2.5}]}),),
        Retention(30 * 86_400.0, 5, ("ship", "published")),
    )  # fmt: skip


def test_an_empty_file_will_do() -> None:
    assert parse("", HERE) == Settings(HERE / "nosejobs-data")


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "127.9.9.9:1", "localhost:80", "[::1]:80", "::1:80"]
)
def test_it_answers_on_loopback(listen: str) -> None:
    assert parse(f"[dispatcher]\nlisten = '{listen}'", HERE).port == int(listen.split(":")[-1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dispatcher]\nlisten='0.0.0.0:80'", "2: dispatcher.listen must be a loopback address"),
        ("[dispatcher]\nlisten='example.org:80'", "2: dispatcher.listen must be a loopback"),
        ("[dispatcher]\nlisten='127.0.0.1'", "2: dispatcher.listen must be an address and a port"),
        ("[dispatcher]\nlisten='127.0.0.1:65536'", "2: dispatcher.listen must be an address and a"),
        ("[dispatcher]\nlisten=80", "2: dispatcher.listen must be an address and a port"),
        ("[dispatcher]\ndate=1", "2: unknown key 'dispatcher.date'; did you mean 'data'"),
        ("[dispatcher]\nquarantine=0", "2: dispatcher.quarantine must be a whole number, 1 to"),
        ("[dispatcher]\nlease=-1", "2: dispatcher.lease must be a time above 0"),
        ("[source.a]", "1: unknown key 'source'; did you mean 'sources'?"),
        ("[sources.a]", "1: sources.a must have either git or directory"),
        ("[sources.a]\ngit='x'\ndirectory='y'", "1: sources.a must have either git or directory"),
        ("[sources.a]\ndirectory='y'\nbranches=['m']", "3: sources.a.branches is for git; a direc"),
        ("[sources.a]\ngit='--upload-pack=x'", "2: sources.a.git must be the address of a reposit"),
        ("[sources.a]\ngit='ext::sh -c x'", "2: sources.a.git must be an address without a helper"),
        ("[sources.a]\ngit='http://[x'", "2: sources.a.git must be the address of a repository"),
        ("[sources.a]\ngit='x'\nbranches=[]", "3: sources.a.branches must be a list of 1 to 1000"),
        ("[sources.a]\ngit='x'\nbursts='all'", '3: sources.a.bursts must be "newest" or "every"'),
        ("[sources.a]\ngit='x'\npoll=0", "3: sources.a.poll must be a time above 0"),
        ("[sources.'a b']\ngit='x'", "1: sources.'a b' has an invalid name"),
        ("[hosts.a]\nspec='sssh=b'", "2: hosts.a.spec cannot be used: host spec 'sssh=b': unknown"),
        ("[hosts.a]\nspec='b'", "2: hosts.a.spec cannot be used: "),
        ("[hosts.a]\nslots=2000", "2: hosts.a.slots must be a whole number, 1 to 1024, not 2000"),
        ("[hosts.a]\ncache='4 apples'", '2: hosts.a.cache must be a size as "4GiB", "500MB" or 0'),
        ("[hosts.a]\nslot=2", "2: unknown key 'hosts.a.slot'; did you mean 'slots'?"),
        ("[pools.a]\nmax_hosts=0", "2: pools.a.max_hosts must be a whole number, 1 to 1000, not 0"),
        ("[pools.a]\nkind=''", "2: pools.a.kind must be a name"),
        ("[pools.a]\noptions={a=1979-05-27}", "2: pools.a.options must be a table of texts"),
        ("[pools.a]\noptions={a=[inf]}", "2: pools.a.options must be a table of texts"),
        ("[pools.a]\noptions={a=0xffffffffffffffff}", "2: pools.a.options must be a table of text"),
        ("[retention]\nage=0", "2: retention.age must be a time above 0"),
        ("[retention]\ndays=9", "2: unknown key 'retention.days'; known: age, builds"),
    ],
)  # fmt: skip
def test_mistakes_name_file_line_and_key(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(text, HERE)
    assert str(caught.value)[: len(words) + 16] == f"dispatcher.toml:{words}"


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidConfig, match="without a password") as caught:
        parse("[sources.a]\ngit = 'https://me:hunter2@example.org/x'", HERE)
    assert "hunter2" not in str(caught.value)
    parse("[sources.a]\ngit = 'https://me@example.org/x'", HERE)


@pytest.mark.parametrize(
    "address",
    [
        "https://ghp_hunter2@example.org/x",
        "https://hunter2@example.org/x?private_token=hunter2",
        "HTTPS://hunter2aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@example.org/x",
        "https://me:hunter2/4@example.org/x",
    ],
)
def test_a_token_in_an_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(f"[sources.a]\ngit = '{address}'", HERE)
    assert str(caught.value).startswith("dispatcher.toml:2: sources.a.git must be ")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("git", "kept"),
    [
        ("repo.git", "/etc/nosejobs/repo.git"), ("./a:b", "/etc/nosejobs/a:b"), ("/x/y", "/x/y"),
        ("host:repo", "host:repo"), ("me@host:repo/x", "me@host:repo/x"),
        ("file:///x/y", "file:///x/y"), ("ssh://host/x", "ssh://host/x"),
    ],
)  # fmt: skip
def test_paths_of_repositories_begin_where_the_file_is(git: str, kept: str) -> None:
    assert parse(f"[sources.a]\ngit = '{git}'", HERE).sources[0].git == kept


def test_explained() -> None:
    assert explain(parse(FULL, HERE)) == [
        "data: /var/lib/nosejobs",
        "listens on ::1, port 8000",
        "source app: git git@example.org:app.git, main, release/*, changes to src/**; "
        "every commit, polled every 60 s",
        "source near: git /etc/nosejobs/../near.git, main, master; "
        "the newest commit, polled every 5 s",
        "source drop: /etc/nosejobs/drop; the newest state, polled every 60 s",
        "host big: ssh=ci@big (linux, gpu)",
        "host agent1: agent=agent1:7422",
        "host plain: ssh=plain",
        "pool spare: up to 4 hosts of kind local (linux)",
    ]
    one = explain(parse("[pools.here]\nmax_hosts = 1\n", HERE))
    assert "pool here: up to 1 host of kind local" in one
    assert [line for line in explain(parse("", HERE)) if "warning" in line] == [
        "warning: no [sources.NAME]: nothing is watched",
        "warning: no [hosts.NAME] and no [pools.NAME]: every job will wait",
    ]


ADDRESSES = [
    "ftp://host/x", "FTP://host/x", "ext::sh -c x", "a.b::x", "x+y::z", "rsync://host/x", "-x",
    "--upload-pack=x", "https://host/x", "ssh://host/x", "git@host:x", "file:///srv/x", "/srv/x",
    "../x", "http::x", "persistent-https://host/x", "s3://b/x", "https://host/\u202ex", "host:x::y",
    "C:x", "git://host/x", "./a::b", "javascript:x",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_check_accepts_is_what_a_source_accepts(address: str) -> None:
    text = f"[sources.a]\ngit = {json.dumps(address)}\n"
    try:
        (source,) = parse(text, Path("/x")).sources
        is_accepted = True
    except InvalidConfig:
        is_accepted = False
    try:
        git_command.check_address(source.git if is_accepted else address)
    except git_command.SourceError:
        assert not is_accepted
    else:
        assert is_accepted
