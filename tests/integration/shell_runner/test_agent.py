"""The agent: who gets in, who does not, and what stays behind (nothing)."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shell_runner.hosts import agent_zipapp, ca, tls
from tests.helpers.agent_processes import BOOTSTRAP, Agent, Authority, Peer, stopped
from tests.helpers.single_host_run import wait_until_gone, find_processes
from tests.integration.shell_runner.test_old_pythons import interpreters, versions


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def client(authority: Authority) -> Path:
    return authority.client()


@pytest.fixture(scope="module")
def bundle(authority: Authority) -> Path:
    return authority.host()


@pytest.fixture(scope="module")
def shared(bundle: Path) -> Iterator[Agent]:
    """One for tests that do not harm it."""
    with Agent(bundle, "--handshake-timeout", "1") as agent:
        yield agent


@pytest.fixture
def agent(bundle: Path) -> Iterator[Agent]:
    with Agent(bundle) as agent:
        yield agent


def refusal(agent: Agent, credentials: Path, **changes: object) -> str:
    """Connect in vain; what is said."""
    with pytest.raises(tls.CannotConnect) as caught:
        agent.connect(credentials, **changes)
    assert caught.value.hint
    return str(caught.value)


# -- who gets in --------------------------------------------------------------------


def test_an_interpreter_answers(shared: Agent, client: Path) -> None:
    with shared.connect(client) as peer:
        assert peer.ask("6 * 7") == "42"
        # The whole of a large answer comes, and the whole of a large question goes.
        assert len(peer.ask("'x' * 5_000_000")) == 5_000_000
        assert peer.ask(f"len({'x' * 3_000_000!r})") == "3000000"
        assert peer.ask("os.getcwd()") == os.path.expanduser("~")
    shared.expect("open .*name=laptop")
    assert shared.expect(r"close .*name=laptop reason=\"closed by the peer\" seconds=\d")


def test_an_end_of_input_is_seen_by_the_interpreter(
    shared: Agent, client: Path, tmp_path: Path
) -> None:
    with shared.connect(client) as peer:
        peer.ask("__import__('atexit').register("
                 f"lambda: open({str(tmp_path / 'tidy')!r}, 'w').close())")
    shared.expect("close ")
    assert (tmp_path / "tidy").exists()


def test_the_end_of_an_interpreter_ends_the_connection(shared: Agent, client: Path) -> None:
    with shared.connect(client) as peer:
        peer.send(b"sys.stdout.write('last words') and os._exit(3)\n")
        # Not flushed: nothing may come, and the end must.
        assert peer.ended(5)
    shared.expect("close .*the interpreter ended")


def test_two_at_once(shared: Agent, client: Path) -> None:
    with shared.connect(client) as one, shared.connect(client) as two:
        assert one.ask("os.getpid()") != two.ask("os.getpid()")


def test_by_address_and_by_another_name(shared: Agent, client: Path) -> None:
    with shared.connect(client, address="127.0.0.1") as peer:
        assert peer.ask("1") == "1"
    with shared.connect(client, address="127.0.0.1", name="localhost") as peer:
        assert peer.ask("1") == "1"


def test_ipv6(bundle: Path, client: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 here")
    with Agent(bundle, "--listen", "[::1]:0") as six, six.connect(client, address="::1") as peer:
        assert peer.ask("1") == "1"


def test_python_can_be_chosen(shared: Agent, client: Path) -> None:
    with shared.connect(client, python=f"{sys.executable} -X dev") as peer:
        assert peer.ask("sys.flags.dev_mode") == "True"


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("no-such-python", "cannot run no-such-python"),
        ("/bin/cat", "/bin/cat is not a usable Python"),
        ("'", "not a hello"),
    ],
)
def test_a_python_that_cannot_be_run_is_named(
    shared: Agent, client: Path, python: str, words: str
) -> None:
    with pytest.raises(tls.CannotConnect, match=words):
        shared.connect(client, python=python)


@pytest.mark.parametrize("version", versions(good=False)[-1:])
def test_a_python_that_is_too_old_is_named(
    shared: Agent, client: Path, version: tuple[int, int]
) -> None:
    words = refusal(shared, client, python=interpreters()[version])
    assert "Python >= 3.8 is needed" in words


def test_more_connections_than_allowed_are_told_so(bundle: Path, client: Path) -> None:
    with Agent(bundle, "--max-connections", 1) as agent:
        with agent.connect(client):
            assert "1 connections are open already" in refusal(agent, client)
        agent.expect("close ")
        with agent.connect(client) as peer:
            assert peer.ask("1") == "1"


# -- who does not -------------------------------------------------------------------


def raw_context(bundle: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if bundle:
        context.load_cert_chain(bundle)
    return context


@contextlib.contextmanager
def signed(agent: Agent, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", agent.port), 10))
        yield stack.enter_context(context.wrap_socket(plain))


def raw(agent: Agent, context: ssl.SSLContext) -> bytes:
    """What an arbitrary TLS client gets that sends a good hello."""
    hello = {"nosejobs": 1, "python": "", "bootstrap": "print('got in')"}
    with signed(agent, context) as secured:
        secured.sendall(json.dumps(hello).encode() + b"\n")
        return secured.recv(100)


def test_no_certificate(shared: Agent) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        raw(shared, raw_context())
    shared.expect("refused .*no certificate")


def test_older_tls_is_refused(shared: Agent, client: Path) -> None:
    context = raw_context(client)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        raw(shared, context)
    shared.expect("refused .*TLS older than 1.3")


def test_a_stranger_is_refused_by_either_side(shared: Agent, tmp_path: Path) -> None:
    stranger = Authority(tmp_path).client("stranger")
    assert "is of another fleet" in refusal(shared, stranger)
    shared.expect("refused .*our certificate: another authority")
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        raw(shared, raw_context(stranger))
    shared.expect("refused .*certificate refused: ")


@pytest.mark.parametrize("kind", ["expired", "revoked", "host"])
def test_a_certificate_that_is_not_good_is_refused(
    authority: Authority, bundle: Path, kind: str
) -> None:
    credentials = {
        "expired": lambda: authority.client("expired", days=-1),
        "revoked": lambda: authority.client("revoked"),
        "host": lambda: authority.host("other"),
    }[kind]()
    if kind == "revoked":
        authority.revoke("revoked")
    words = {
        "expired": "our certificate has expired",
        "revoked": "our certificate has been revoked",
        "host": "our certificate is not a client's",
    }[kind]
    with Agent(bundle, "--crl", authority.crl) as agent:
        assert words in refusal(agent, credentials)
        assert agent.expect("refused .*certificate refused: .*seconds=")


def test_a_revocation_is_followed_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.client("one"), authority.client("two")
    copy = tmp_path / "copy.pem"
    copy.write_text(authority.crl.read_text())
    with Agent(authority.host(), "--crl", copy) as agent:
        with agent.connect(one) as peer:
            assert peer.ask("1") == "1"
        authority.revoke("one")
        copy.write_text(authority.crl.read_text())
        assert "revoked" in refusal(agent, one)
        # A spoilt list is told of, and the last good one still holds.
        copy.write_text("nonsense")
        assert "revoked" in refusal(agent, one)
        agent.expect("error .*copy.pem: not a revocation list")
        with agent.connect(two) as peer:
            assert peer.ask("1") == "1"


def test_a_new_bundle_is_followed_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    client, host = authority.client(), authority.host(days=-1)
    with Agent(host) as agent:
        agent.expect("error .*expired on ")
        assert "not valid any more" in refusal(agent, client)
        authority.host()
        with agent.connect(client) as peer:
            assert peer.ask("1") == "1"


def test_a_host_that_is_not_whom_we_want_is_refused(
    shared: Agent, authority: Authority, client: Path
) -> None:
    words = refusal(shared, client, name="web1")
    assert "is not for web1" in words
    assert "//name=" in words


def test_a_revoked_host_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    client = authority.client()
    with Agent(authority.host()) as agent:
        authority.revoke("localhost")
        # The list in the bundle is older than the one that lies beside it.
        beside = tmp_path / "elsewhere" / "crl.pem"
        beside.parent.mkdir()
        bundle = client.rename(beside.parent / "client.pem")
        with agent.connect(bundle) as peer:
            assert peer.ask("1") == "1"
        beside.write_text(authority.crl.read_text())
        assert "has been revoked" in refusal(agent, bundle)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 400, b"SSH-2.0-x\r\n", b'{"nosejobs": 1}\n']
)
def test_plain_bytes_get_nothing_not_even_a_banner(shared: Agent, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), 10) as plain:
        plain.sendall(data)
        with contextlib.suppress(ConnectionError):
            assert plain.recv(100) == b""
    shared.expect("refused .*not TLS|refused .*reason=")


def test_silence_is_ended_and_others_are_served_meanwhile(shared: Agent, client: Path) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), 10) as silent:
        with shared.connect(client) as peer:
            assert peer.ask("1") == "1"
        assert silent.recv(1) == b""
    shared.expect("refused .*no handshake within 1 s")


def test_a_signed_peer_without_a_hello_is_ended(shared: Agent, client: Path) -> None:
    with signed(shared, raw_context(client)) as secured:
        assert b"no hello within 1 s" in secured.recv(100)
    shared.expect("refused .*name=laptop .*no hello")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"x\n", b"not a hello"),
        (b"[]\n", b"not a hello"),
        (b"[" * 60000 + b"\n", b"not a hello"),
        (b'{"nosejobs": 2, "python": "", "bootstrap": ""}\n', b"speaks version 1"),
        (b'{"nosejobs": 1, "python": "", "bootstrap": 3}\n', b"not a hello"),
        (b"x" * 100_000, b"too long"),
    ],
)
def test_a_bad_hello_is_refused(shared: Agent, client: Path, line: bytes, words: bytes) -> None:
    with signed(shared, raw_context(client)) as secured:
        secured.sendall(line)
        assert words in secured.recv(1000)


def test_a_thousand_half_open_connections_keep_nobody_out(agent: Agent, client: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    before = psutil.Process(agent.process.pid).memory_info().rss
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                sock = socket.create_connection(("127.0.0.1", agent.port), 10)
                stack.enter_context(sock)
            begin = time.monotonic()
            with agent.connect(client) as peer:
                assert peer.ask("1") == "1"
            assert time.monotonic() - begin < 5
            process = psutil.Process(agent.process.pid)
            assert process.memory_info().rss - before < 20 << 20
            assert process.num_fds() < 100
            assert process.num_threads() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    agent.expect("refused .*too many handshakes")


def test_a_flood_of_one_address_keeps_no_other_out(shared: Agent, client: Path) -> None:
    with contextlib.ExitStack() as stack:
        # Slow, but in time, and older than all of the flood.
        slow = stack.enter_context(socket.create_connection(("127.0.0.1", shared.port), 10))
        for _ in range(200):
            flood = socket.create_connection(("127.0.0.1", shared.port), 10, ("127.0.0.2", 0))
            stack.enter_context(flood)
        secured = stack.enter_context(raw_context(client).wrap_socket(slow))
        hello = {"nosejobs": 1, "python": "", "bootstrap": "print('got in')"}
        secured.sendall(json.dumps(hello).encode() + b"\n")
        assert secured.recv(100) == b'{"ok": true}\n'


# -- what the controller says -------------------------------------------------------


def test_no_agent_there(client: Path, agent: Agent) -> None:
    agent.process.terminate()
    agent.process.wait()
    words = refusal(agent, client)
    assert f"no agent at localhost:{agent.port} (Connection refused)" in words
    assert "nosejobs-agent localhost.pem" in words
    assert "ssh=localhost" in words


def test_something_else_listens_there(client: Path, agent: Agent) -> None:
    code = (
        "import socket; peer = socket.socket(fileno=0).accept()[0]; "
        "peer.sendall(b'SSH-2.0-x\\r\\n'); peer.recv(1 << 20)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", code], stdin=server):
            words = refusal(agent, client, address="127.0.0.1", port=port)
    assert "does not speak TLS" in words
    assert "is it an agent?" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "no credentials: there is no"),
        (lambda path: path.chmod(0o644), "others may use the key"),
        (lambda path: path.write_text(""), "hold no key"),
    ],
)
def test_our_own_credentials_are_checked(
    shared: Agent, authority: Authority, change: object, words: str
) -> None:
    path = authority.client("mine")
    change(path)  # type: ignore[operator]
    said = refusal(shared, path)
    assert words in said
    assert "nosejobs ca issue --client" in said or "chmod 600" in said


# -- what stays behind --------------------------------------------------------------


def victims(agent: Agent, peer: Peer) -> dict[str, int]:
    """The processes of a connection."""
    interpreter = int(peer.ask("os.getpid()"))
    return {
        "agent": agent.process.pid,
        "supervisor": int(peer.ask("os.getppid()")),
        "interpreter": interpreter,
    }


@pytest.mark.parametrize("who", ["agent", "supervisor", "interpreter", "connection", "SIGTERM"])
def test_nothing_stays_behind(agent: Agent, client: Path, tmp_path: Path, who: str) -> None:
    marker = str(tmp_path)
    with agent.connect(client) as peer, agent.connect(client) as other:
        other.ask("1")
        found = victims(agent, peer)
        daemon = peer.daemon(marker)
        assert daemon in find_processes(marker)
        if who == "connection":
            peer.transport.close()
        elif who == "SIGTERM":
            agent.process.terminate()
        else:
            os.kill(found[who], signal.SIGKILL)
        assert wait_until_gone(marker, 8)
        below = [found["supervisor"], found["interpreter"], daemon]
        assert all_gone(below, 3)
        if who in ("agent", "SIGTERM"):
            assert other.ended(5)
        else:
            assert other.ask("2") == "2"
    if who == "SIGTERM":
        assert agent.process.wait(10) == 0


def all_gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_stopped_tree_is_killed_too(agent: Agent, client: Path) -> None:
    with agent.connect(client) as peer:
        found = victims(agent, peer)
        with stopped(found["interpreter"]):
            peer.transport.close()
            agent.expect("close ")
        assert all_gone([found["interpreter"], found["supervisor"]], 1)


def test_a_connection_that_is_cut_without_a_word_is_closed(
    agent: Agent, client: Path, tmp_path: Path
) -> None:
    with agent.connect(client) as peer:
        peer.daemon(str(tmp_path))
        sock = peer.transport._sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        agent.expect("close .*connection lost: ")
        assert wait_until_gone(str(tmp_path), 1)


@contextlib.contextmanager
def far_away() -> Iterator[tuple[str, str, str]]:
    """A network of its own: its name, our interface to it, and an address there."""
    name = f"nj{os.getpid()}"
    net = f"10.{os.getpid() % 250 + 1}.99"
    steps = (
        f"netns add {name}",
        f"link add {name}a type veth peer name {name}b netns {name}",
        f"addr add {net}.1/24 dev {name}a",
        f"link set {name}a up",
        f"-n {name} addr add {net}.2/24 dev {name}b",
        f"-n {name} link set {name}b up",
    )
    try:
        for step in steps:
            if subprocess.run(["ip", *step.split()], capture_output=True).returncode != 0:
                pytest.skip("network namespaces cannot be made here")
        yield name, f"{name}a", f"{net}.2"
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_a_dead_network_ends_both_sides_and_a_short_gap_neither(tmp_path: Path) -> None:
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    authority = Authority(tmp_path)
    client = authority.client()
    with far_away() as (name, link, address):
        module = (sys.executable, "-m", "shell_runner.remote", "agent")
        command = ("ip", "netns", "exec", name, *module)
        bundle = authority.host("far", address)
        with (
            Agent(bundle, "--listen", f"{address}:0", command=command) as agent,
            agent.connect(client, address=address, silence=3) as peer,
        ):
            peer.daemon(str(tmp_path / "marker"))
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            time.sleep(1)  # the gap itself
            subprocess.run(["ip", "link", "set", link, "up"], check=True)
            assert peer.ask("1") == "1"
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            agent.expect("close .*connection lost: .*timed out", 8)
            assert wait_until_gone(str(tmp_path / "marker"), 1)
            with pytest.raises(TimeoutError):
                peer.read(8)


# -- dialing out --------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_dial_out_works_and_reconnects(bundle: Path, client: Path) -> None:
    port = free_port()
    with Agent(bundle, "--connect", f"127.0.0.1:{port}") as agent:
        agent.expect("waiting .*Connect call failed|waiting .*refused")
        for number in range(2):
            with agent.connect(client, listen=port) as peer:
                assert peer.ask(str(number)) == str(number)
            agent.expect("close ")


def test_only_the_wanted_name_is_taken(
    authority: Authority, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    wrong, right = authority.host("web1"), authority.host("web2")
    with Agent(wrong, "--connect", f"127.0.0.1:{port}") as one:
        one.expect("waiting ")
        monkeypatch.setattr(tls, "LISTEN_TIMEOUT", 3.0)
        words = refusal(one, client, address="web2", listen=port)
        assert "web2 did not dial" in words
        assert "the certificate of web2" in words
        assert "--connect" in words
        monkeypatch.undo()
        with Agent(right, "--connect", f"127.0.0.1:{port}") as two:
            # Nor do silent strangers keep it out.
            with two.connect(client, address="web2", listen=port) as peer:
                assert peer.ask("1") == "1"
            two.expect("open .*name=laptop")


def test_a_taken_port_is_named(agent: Agent, client: Path) -> None:
    with socket.create_server(("", 0)) as server:
        words = refusal(agent, client, listen=server.getsockname()[1])
    assert "cannot listen on port" in words
    assert "a free port for each host" in words


# -- how it is started --------------------------------------------------------------


@pytest.mark.parametrize("version", versions(good=True))
def test_the_single_file_runs_on_a_bare_python(
    bundle: Path, client: Path, tmp_path: Path, version: tuple[int, int]
) -> None:
    agent_zipapp.write(tmp_path / "agent.pyz")
    command = (interpreters()[version], "-I", str(tmp_path / "agent.pyz"))
    with Agent(bundle, command=command) as agent, agent.connect(client) as peer:
        assert peer.ask("'%d.%d' % sys.version_info[:2]") == "{}.{}".format(*version)
        peer.daemon(str(tmp_path))
        agent.kill()
        assert wait_until_gone(str(tmp_path), 5)


@pytest.mark.parametrize("version", versions(good=False))
def test_the_single_file_says_what_it_needs(tmp_path: Path, version: tuple[int, int]) -> None:
    agent_zipapp.write(tmp_path / "agent.pyz")
    command = [interpreters()[version], str(tmp_path / "agent.pyz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Python >= 3.8 is needed" in done.stderr


def test_the_port_is_written_to_a_file(bundle: Path, tmp_path: Path) -> None:
    with Agent(bundle, "--port-file", tmp_path / "port") as agent:
        agent.process.terminate()
        agent.process.wait(10)
        assert (tmp_path / "port").read_text() == f"{agent.port}\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["no-such.pem"], "no-such.pem: No such file"),
        (["{bundle}", "--crl", "{bundle}.not"], "No such file"),
        (["{bundle}", "--listen", "127.0.0.1:{taken}"], "in use"),
    ],
)
def test_an_agent_that_cannot_start_says_why(bundle: Path, options: list[str], words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        given = [each.format(bundle=bundle, taken=taken) for each in options]
        command = [sys.executable, "-m", "shell_runner.remote", "agent", *given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_unit_runs_this_very_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    command = [sys.executable, "-m", "shell_runner.remote", "agent", bundle.name, "--print-unit"]
    done = subprocess.run([*command, "--max-connections", "8"], capture_output=True, text=True)
    assert f"{bundle} --max-connections 8\n" in done.stdout
    for line in ("KillMode=process", "Restart=always", "WantedBy=multi-user.target"):
        assert line in done.stdout.splitlines()


def test_keys_and_what_is_sent_are_never_logged(bundle: Path, client: Path) -> None:
    with Agent(bundle) as agent, agent.connect(client) as peer:
        peer.ask("'secret'")
        agent.process.terminate()
        with contextlib.suppress(AssertionError):
            agent.expect("no such line")
        text = "\n".join(agent.lines)
    assert "open" in text
    key = bundle.read_text().splitlines()[1]
    for each in (key, "secret", BOOTSTRAP, "exec("):
        assert each not in text
    assert ca.Authority  # the extra is there: nothing above was skipped
