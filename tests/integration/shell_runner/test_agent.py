"""Tests of the agent: which peers it accepts, and that it leaves no process behind."""

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
from tests.helpers.agent_processes import (
    BOOTSTRAP,
    AgentProcess,
    FleetAuthority,
    InterpreterClient,
    pause_process,
)
from tests.helpers.single_host_run import find_processes, wait_until_gone
from tests.integration.shell_runner.test_old_pythons import interpreters, versions


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> FleetAuthority:
    return FleetAuthority(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def client(authority: FleetAuthority) -> Path:
    return authority.issue_client()


@pytest.fixture(scope="module")
def bundle(authority: FleetAuthority) -> Path:
    return authority.issue_host()


@pytest.fixture(scope="module")
def shared(bundle: Path) -> Iterator[AgentProcess]:
    """Yield an agent that several tests share."""
    with AgentProcess(bundle, "--handshake-timeout", "1") as agent:
        yield agent


@pytest.fixture
def agent(bundle: Path) -> Iterator[AgentProcess]:
    with AgentProcess(bundle) as agent:
        yield agent


def get_refusal(agent: AgentProcess, credentials: Path, **changes: object) -> str:
    """Fail to connect; return the error message."""
    with pytest.raises(tls.CannotConnect) as caught:
        agent.connect(credentials, **changes)
    assert caught.value.hint
    return str(caught.value)


# -- admitted peers -----------------------------------------------------------------


def test_an_interpreter_answers(shared: AgentProcess, client: Path) -> None:
    with shared.connect(client) as peer:
        assert peer.evaluate("6 * 7") == "42"
        # Large answers and large requests are transferred completely.
        assert len(peer.evaluate("'x' * 5_000_000")) == 5_000_000
        assert peer.evaluate(f"len({'x' * 3_000_000!r})") == "3000000"
        assert peer.evaluate("os.getcwd()") == os.path.expanduser("~")
    shared.expect("open .*name=laptop")
    assert shared.expect(r"close .*name=laptop reason=\"closed by the peer\" seconds=\d")


def test_an_end_of_input_is_seen_by_the_interpreter(
    shared: AgentProcess, client: Path, tmp_path: Path
) -> None:
    with shared.connect(client) as peer:
        peer.evaluate(
            f"__import__('atexit').register(lambda: open({str(tmp_path / 'tidy')!r}, 'w').close())"
        )
    shared.expect("close ")
    assert (tmp_path / "tidy").exists()


def test_the_end_of_an_interpreter_ends_the_connection(shared: AgentProcess, client: Path) -> None:
    with shared.connect(client) as peer:
        peer.send(b"sys.stdout.write('last message') and os._exit(3)\n")
        # Not flushed: the text may be lost, but the end must arrive.
        assert peer.wait_for_end(5)
    shared.expect("close .*the interpreter ended")


def test_two_connections_at_once(shared: AgentProcess, client: Path) -> None:
    with shared.connect(client) as one, shared.connect(client) as two:
        assert one.evaluate("os.getpid()") != two.evaluate("os.getpid()")


def test_a_host_is_reached_by_address_and_by_another_name(
    shared: AgentProcess, client: Path
) -> None:
    with shared.connect(client, address="127.0.0.1") as peer:
        assert peer.evaluate("1") == "1"
    with shared.connect(client, address="127.0.0.1", name="localhost") as peer:
        assert peer.evaluate("1") == "1"


def test_ipv6(bundle: Path, client: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 here")
    with (
        AgentProcess(bundle, "--listen", "[::1]:0") as six,
        six.connect(client, address="::1") as peer,
    ):
        assert peer.evaluate("1") == "1"


def test_python_can_be_chosen(shared: AgentProcess, client: Path) -> None:
    with shared.connect(client, python=f"{sys.executable} -X dev") as peer:
        assert peer.evaluate("sys.flags.dev_mode") == "True"


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("no-such-python", "cannot run no-such-python"),
        ("/bin/cat", "/bin/cat is not a usable Python"),
        ("'", "not a hello"),
    ],
)
def test_a_python_that_cannot_be_run_is_named(
    shared: AgentProcess, client: Path, python: str, message: str
) -> None:
    with pytest.raises(tls.CannotConnect, match=message):
        shared.connect(client, python=python)


@pytest.mark.parametrize("version", versions(good=False)[-1:])
def test_a_python_that_is_too_old_is_named(
    shared: AgentProcess, client: Path, version: tuple[int, int]
) -> None:
    message = get_refusal(shared, client, python=interpreters()[version])
    assert "Python >= 3.8 is needed" in message


def test_more_connections_than_allowed_are_told_so(bundle: Path, client: Path) -> None:
    limits = ("--max-connections", 1, "--max-client-connections", 9)
    with AgentProcess(bundle, *limits) as agent:
        with agent.connect(client):
            assert "1 connections are open already" in get_refusal(agent, client)
        agent.expect("close ")
        with agent.connect(client) as peer:
            assert peer.evaluate("1") == "1"


@pytest.mark.parametrize("kind", ["idle", "without a hello"])
def test_one_client_cannot_take_all_connections(
    authority: FleetAuthority, bundle: Path, client: Path, kind: str
) -> None:
    other = authority.issue_client("desktop")
    with (
        AgentProcess(bundle, "--max-connections", 4, "--handshake-timeout", 60) as agent,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            if kind == "idle":
                stack.enter_context(agent.connect(client))
            else:
                stack.enter_context(connect_tls(agent, make_client_context(client)))
        message = get_refusal(agent, client)
        assert "2 connections of laptop are open already" in message
        assert "--max-client-connections" in message
        # A new certificate of the same client is no new client.
        assert "2 connections of laptop" in get_refusal(agent, authority.issue_client("laptop"))
        for _ in range(2):
            stack.enter_context(agent.connect(other))
        assert "2 connections of desktop" in get_refusal(agent, other)
        assert "4 connections are open" in get_refusal(agent, authority.issue_client("third"))
        stack.close()
        with connect_when_free(agent, client) as peer:
            assert peer.evaluate("1") == "1"


def connect_when_free(agent: AgentProcess, client: Path) -> InterpreterClient:
    """Connect once the agent has noticed that earlier connections are closed."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return agent.connect(client)
        except tls.CannotConnect:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# -- refused peers ------------------------------------------------------------------


def make_client_context(bundle: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if bundle:
        context.load_cert_chain(bundle)
    return context


@contextlib.contextmanager
def connect_tls(agent: AgentProcess, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", agent.port), 10))
        yield stack.enter_context(context.wrap_socket(plain))


def send_hello(agent: AgentProcess, context: ssl.SSLContext) -> bytes:
    """Send a valid hello as an arbitrary TLS client; return the answer."""
    hello = {"nosejobs": 2, "python": "", "bootstrap": "print('got in')"}
    with connect_tls(agent, context) as secured:
        secured.sendall(json.dumps(hello).encode() + b"\n")
        return secured.recv(100)


def test_no_certificate(shared: AgentProcess) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        send_hello(shared, make_client_context())
    shared.expect("refused .*no certificate")


def test_older_tls_is_refused(shared: AgentProcess, client: Path) -> None:
    context = make_client_context(client)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        send_hello(shared, context)
    shared.expect("refused .*TLS older than 1.3")


def test_a_certificate_of_another_fleet_is_refused_by_either_side(
    shared: AgentProcess, tmp_path: Path
) -> None:
    stranger = FleetAuthority(tmp_path).issue_client("stranger")
    assert "belongs to another fleet" in get_refusal(shared, stranger)
    shared.expect("refused .*our certificate: another authority")
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        send_hello(shared, make_client_context(stranger))
    shared.expect("refused .*certificate refused: ")


@pytest.mark.parametrize("kind", ["expired", "revoked", "host"])
def test_an_invalid_certificate_is_refused(
    authority: FleetAuthority, bundle: Path, kind: str
) -> None:
    credentials = {
        "expired": lambda: authority.issue_client("expired", days=-1),
        "revoked": lambda: authority.issue_client("revoked"),
        "host": lambda: authority.issue_host("other"),
    }[kind]()
    if kind == "revoked":
        authority.revoke("revoked")
    message = {
        "expired": "our certificate has expired",
        "revoked": "our certificate has been revoked",
        "host": "our certificate is not for a client",
    }[kind]
    with AgentProcess(bundle, "--crl", authority.crl) as agent:
        assert message in get_refusal(agent, credentials)
        assert agent.expect("refused .*certificate refused: .*seconds=")


def test_a_revocation_takes_effect_without_a_restart(tmp_path: Path) -> None:
    authority = FleetAuthority(tmp_path)
    one, two = authority.issue_client("one"), authority.issue_client("two")
    copy = tmp_path / "copy.pem"
    copy.write_text(authority.crl.read_text())
    with AgentProcess(authority.issue_host(), "--crl", copy) as agent:
        with agent.connect(one) as peer:
            assert peer.evaluate("1") == "1"
        authority.revoke("one")
        copy.write_text(authority.crl.read_text())
        assert "revoked" in get_refusal(agent, one)
        # An invalid list is logged, and the last valid one stays in use.
        copy.write_text("nonsense")
        assert "revoked" in get_refusal(agent, one)
        agent.expect("error .*copy.pem: not a revocation list")
        with agent.connect(two) as peer:
            assert peer.evaluate("1") == "1"


def test_a_new_bundle_takes_effect_without_a_restart(tmp_path: Path) -> None:
    authority = FleetAuthority(tmp_path)
    client, host = authority.issue_client(), authority.issue_host(days=-1)
    with AgentProcess(host) as agent:
        agent.expect("error .*expired on ")
        assert "has expired" in get_refusal(agent, client)
        authority.issue_host()
        with agent.connect(client) as peer:
            assert peer.evaluate("1") == "1"


def test_a_host_with_another_name_is_refused(
    shared: AgentProcess, authority: FleetAuthority, client: Path
) -> None:
    message = get_refusal(shared, client, name="web1")
    assert "is not for web1" in message
    assert "//name=" in message


def test_a_revoked_host_is_refused(tmp_path: Path) -> None:
    authority = FleetAuthority(tmp_path)
    client = authority.issue_client()
    with AgentProcess(authority.issue_host()) as agent:
        authority.revoke("localhost")
        # The list in the bundle is older than the one beside it.
        beside = tmp_path / "elsewhere" / "crl.pem"
        beside.parent.mkdir()
        bundle = client.rename(beside.parent / "client.pem")
        with agent.connect(bundle) as peer:
            assert peer.evaluate("1") == "1"
        beside.write_text(authority.crl.read_text())
        assert "has been revoked" in get_refusal(agent, bundle)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 400, b"SSH-2.0-x\r\n", b'{"nosejobs": 1}\n']
)
def test_a_peer_without_tls_gets_no_bytes(shared: AgentProcess, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), 10) as plain:
        plain.sendall(data)
        with contextlib.suppress(ConnectionError):
            assert plain.recv(100) == b""
    shared.expect("refused .*not TLS|refused .*reason=")


def test_a_silent_peer_is_closed_and_others_are_served_meanwhile(
    shared: AgentProcess, client: Path
) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), 10) as silent:
        with shared.connect(client) as peer:
            assert peer.evaluate("1") == "1"
        assert silent.recv(1) == b""
    shared.expect("refused .*no handshake within 1 s")


def test_an_authenticated_peer_without_a_hello_is_closed(
    shared: AgentProcess, client: Path
) -> None:
    with connect_tls(shared, make_client_context(client)) as secured:
        assert b"no hello within 1 s" in secured.recv(100)
    shared.expect("refused .*name=laptop .*no hello")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"x\n", b"not a hello"),
        (b"[]\n", b"not a hello"),
        (b"[" * 60000 + b"\n", b"not a hello"),
        (b'{"nosejobs": 3, "python": "", "bootstrap": ""}\n', b"speaks version 2"),
        (b'{"nosejobs": 2, "python": "", "bootstrap": 3}\n', b"not a hello"),
        (b'{"nosejobs": 2, "python": null, "bootstrap": ""}\n', b"not a hello"),
        (b"x" * 100_000, b"too long"),
    ],
)
def test_an_invalid_hello_is_refused(
    shared: AgentProcess, client: Path, line: bytes, message: bytes
) -> None:
    with connect_tls(shared, make_client_context(client)) as secured:
        secured.sendall(line)
        assert message in secured.recv(1000)


def test_a_thousand_half_open_connections_do_not_block_a_client(
    agent: AgentProcess, client: Path
) -> None:
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
                assert peer.evaluate("1") == "1"
            assert time.monotonic() - begin < 5
            process = psutil.Process(agent.process.pid)
            assert process.memory_info().rss - before < 20 << 20
            assert process.num_fds() < 100
            assert process.num_threads() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    agent.expect("refused .*too many handshakes")


def test_a_flood_from_one_address_does_not_block_another(
    shared: AgentProcess, client: Path
) -> None:
    with contextlib.ExitStack() as stack:
        # Slow but in time, and older than all connections of the flood.
        slow = stack.enter_context(socket.create_connection(("127.0.0.1", shared.port), 10))
        for _ in range(200):
            flood = socket.create_connection(("127.0.0.1", shared.port), 10, ("127.0.0.2", 0))
            stack.enter_context(flood)
        secured = stack.enter_context(make_client_context(client).wrap_socket(slow))
        hello = {"nosejobs": 2, "python": "", "bootstrap": "print('got in')"}
        secured.sendall(json.dumps(hello).encode() + b"\n")
        assert secured.recv(100) == b'{"ok": true}\n'


# -- messages of the controller -----------------------------------------------------


def test_no_agent_there(client: Path, agent: AgentProcess) -> None:
    agent.process.terminate()
    agent.process.wait()
    message = get_refusal(agent, client)
    assert f"no agent at localhost:{agent.port} (Connection refused)" in message
    assert "nosejobs-agent localhost.pem" in message
    assert "ssh=localhost" in message


@pytest.mark.parametrize("missing", [True, False])
def test_an_unknown_name_is_an_error_before_missing_credentials(
    agent: AgentProcess, client: Path, tmp_path: Path, missing: bool
) -> None:
    credentials = tmp_path / "no.pem" if missing else client
    message = get_refusal(agent, credentials, address="no-such-host.invalid")
    assert "the name no-such-host.invalid is unknown" in message
    assert "check the spelling" in message
    # A host that connects to us needs no name that can be resolved.
    message = get_refusal(agent, tmp_path / "no.pem", address="no-such-host.invalid", listen=1)
    assert "no credentials: " in message


def test_something_else_listens_there(client: Path, agent: AgentProcess) -> None:
    code = (
        "import socket; peer = socket.socket(fileno=0).accept()[0]; "
        "peer.sendall(b'SSH-2.0-x\\r\\n'); peer.recv(1 << 20)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", code], stdin=server):
            message = get_refusal(agent, client, address="127.0.0.1", port=port)
    assert "does not speak TLS" in message
    assert "is it an agent?" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.chmod(0o644), "is accessible to others"),
        (lambda path: path.write_text(""), "lack a key"),
    ],
)
def test_our_own_credentials_are_checked(
    shared: AgentProcess, authority: FleetAuthority, change: object, message: str
) -> None:
    path = authority.issue_client("mine")
    change(path)  # type: ignore[operator]
    error = get_refusal(shared, path)
    assert message in error
    assert "nosejobs ca issue --client" in error or "chmod 600" in error


# -- processes are killed -----------------------------------------------------------


def list_processes_of(agent: AgentProcess, peer: InterpreterClient) -> dict[str, int]:
    """Return the process ids of a connection by role."""
    interpreter = int(peer.evaluate("os.getpid()"))
    return {
        "agent": agent.process.pid,
        "supervisor": int(peer.evaluate("os.getppid()")),
        "interpreter": interpreter,
    }


@pytest.mark.parametrize("killed", ["agent", "supervisor", "interpreter", "connection", "SIGTERM"])
def test_no_process_is_left_behind(
    agent: AgentProcess, client: Path, tmp_path: Path, killed: str
) -> None:
    marker = str(tmp_path)
    with agent.connect(client) as peer, agent.connect(client) as other:
        other.evaluate("1")
        pids = list_processes_of(agent, peer)
        daemon = peer.start_daemon(marker)
        assert daemon in find_processes(marker)
        if killed == "connection":
            peer.transport.close()
        elif killed == "SIGTERM":
            agent.process.terminate()
        else:
            os.kill(pids[killed], signal.SIGKILL)
        assert wait_until_gone(marker, 8)
        below = [pids["supervisor"], pids["interpreter"], daemon]
        assert wait_for_exit(below, 3)
        if killed in ("agent", "SIGTERM"):
            assert other.wait_for_end(5)
        else:
            assert other.evaluate("2") == "2"
    if killed == "SIGTERM":
        assert agent.process.wait(10) == 0


def wait_for_exit(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_stopped_tree_is_killed_too(agent: AgentProcess, client: Path) -> None:
    with agent.connect(client) as peer:
        pids = list_processes_of(agent, peer)
        with pause_process(pids["interpreter"]):
            peer.transport.close()
            agent.expect("close ")
        assert wait_for_exit([pids["interpreter"], pids["supervisor"]], 1)


def test_a_connection_that_is_reset_is_closed(
    agent: AgentProcess, client: Path, tmp_path: Path
) -> None:
    with agent.connect(client) as peer:
        peer.start_daemon(str(tmp_path))
        sock = peer.transport._sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        agent.expect("close .*connection lost: ")
        assert wait_until_gone(str(tmp_path), 1)


@contextlib.contextmanager
def remote_network() -> Iterator[tuple[str, str, str]]:
    """Create a network namespace; yield its name, our interface to it, and an address in it."""
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
    authority = FleetAuthority(tmp_path)
    client = authority.issue_client()
    with remote_network() as (name, link, address):
        module = (sys.executable, "-m", "shell_runner.remote", "agent")
        command = ("ip", "netns", "exec", name, *module)
        bundle = authority.issue_host("far", address)
        with (
            AgentProcess(bundle, "--listen", f"{address}:0", command=command) as agent,
            agent.connect(client, address=address, silence=3) as peer,
        ):
            peer.start_daemon(str(tmp_path / "marker"))
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            time.sleep(1)  # the gap itself
            subprocess.run(["ip", "link", "set", link, "up"], check=True)
            assert peer.evaluate("1") == "1"
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
    with AgentProcess(bundle, "--connect", f"127.0.0.1:{port}") as agent:
        agent.expect("waiting .*Connect call failed|waiting .*refused")
        for number in range(2):
            with agent.connect(client, listen=port) as peer:
                assert peer.evaluate(str(number)) == str(number)
            agent.expect("close ")


def test_only_the_expected_host_is_accepted(
    authority: FleetAuthority, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    wrong, right = authority.issue_host("web1"), authority.issue_host("web2")
    with AgentProcess(wrong, "--connect", f"127.0.0.1:{port}") as one:
        one.expect("waiting ")
        monkeypatch.setattr(tls, "LISTEN_TIMEOUT", 3.0)
        message = get_refusal(one, client, address="web2", listen=port)
        assert "web2 did not connect" in message
        assert "the certificate of web2" in message
        assert "--connect" in message
        monkeypatch.undo()
        with AgentProcess(right, "--connect", f"127.0.0.1:{port}") as two:
            # Silent peers do not block it either.
            with two.connect(client, address="web2", listen=port) as peer:
                assert peer.evaluate("1") == "1"
            two.expect("open .*name=laptop")


def test_a_port_in_use_is_named(agent: AgentProcess, client: Path) -> None:
    with socket.create_server(("", 0)) as server:
        message = get_refusal(agent, client, listen=server.getsockname()[1])
    assert "cannot listen on port" in message
    assert "a free port for each host" in message


# -- start of the agent -------------------------------------------------------------


@pytest.mark.parametrize("version", versions(good=True))
def test_the_single_file_runs_on_a_bare_python(
    bundle: Path, client: Path, tmp_path: Path, version: tuple[int, int]
) -> None:
    agent_zipapp.write(tmp_path / "agent.pyz")
    command = (interpreters()[version], "-I", str(tmp_path / "agent.pyz"))
    with AgentProcess(bundle, command=command) as agent, agent.connect(client) as peer:
        assert peer.evaluate("'%d.%d' % sys.version_info[:2]") == "{}.{}".format(*version)
        peer.start_daemon(str(tmp_path))
        agent.kill()
        assert wait_until_gone(str(tmp_path), 5)


@pytest.mark.parametrize("version", versions(good=False))
def test_the_single_file_names_the_required_python(
    tmp_path: Path, version: tuple[int, int]
) -> None:
    agent_zipapp.write(tmp_path / "agent.pyz")
    command = [interpreters()[version], str(tmp_path / "agent.pyz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Python >= 3.8 is needed" in done.stderr


def test_the_port_is_written_to_a_file(bundle: Path, tmp_path: Path) -> None:
    with AgentProcess(bundle, "--port-file", tmp_path / "port") as agent:
        agent.process.terminate()
        agent.process.wait(10)
        assert (tmp_path / "port").read_text() == f"{agent.port}\n"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (
            ["no-such.pem"],
            1,
            "no-such.pem: No such file or directory; nosejobs ca issue HOST writes it",
        ),
        (["{bundle}", "--crl", "{bundle}.not"], 1, "No such file or directory\n"),
        (
            ["{bundle}", "--listen", "127.0.0.1:{taken}"],
            1,
            "cannot listen on 127.0.0.1:{taken}: Address already in use; is another agent running?",
        ),
        (["{bundle}", "--listen", "192.0.2.1:7422"], 1, "cannot listen on 192.0.2.1:7422: "),
        (
            ["{bundle}", "--listen", "127.0.0.1:0", "--port-file", "/no/such/port"],
            1,
            "nosejobs-agent: /no/such/port: No such file or directory\n",
        ),
        (
            ["{bundle}", "--listen", "no-such-host.invalid"],
            2,
            "argument --listen: cannot resolve no-such-host.invalid; must be ADDR:PORT, such as"
            " 0.0.0.0:7422",
        ),
    ],
)
def test_an_agent_that_cannot_start_names_the_reason(
    bundle: Path, options: list[str], status: int, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        given = [each.format(bundle=bundle, taken=taken) for each in options]
        command = [sys.executable, "-m", "shell_runner.remote", "agent", *given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == status
    assert message.format(taken=taken) in done.stderr
    assert "Traceback" not in done.stderr
    assert "Errno" not in done.stderr


def test_the_unit_runs_the_same_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    command = [sys.executable, "-m", "shell_runner.remote", "agent", bundle.name, "--print-unit"]
    done = subprocess.run([*command, "--max-connections", "8"], capture_output=True, text=True)
    assert f"{bundle} --max-connections 8\n" in done.stdout
    for line in ("KillMode=process", "Restart=always", "WantedBy=multi-user.target"):
        assert line in done.stdout.splitlines()


def test_keys_and_transferred_data_are_never_logged(bundle: Path, client: Path) -> None:
    with AgentProcess(bundle) as agent, agent.connect(client) as peer:
        peer.evaluate("'secret'")
        agent.process.terminate()
        with contextlib.suppress(AssertionError):
            agent.expect("no such line")
        text = "\n".join(agent.lines)
    assert "open" in text
    key = bundle.read_text().splitlines()[1]
    for secret in (key, "secret", BOOTSTRAP, "exec("):
        assert secret not in text
    assert ca.CertificateAuthority  # the extra is there: nothing above was skipped
