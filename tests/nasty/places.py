"""Places where nasty programs run: users, and an agent.

Responsible for the commands that start a run of pytest there.  Must not depend on the programs.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.agent_processes import FleetAuthority
from tests.nasty import corpus
from tests.nasty.nasty_run import NastyRun, build_home_variables

#: A user who owns nothing and may do little.
OTHER_USER = "nobody"
#: Starts an agent, then the command with the address of the agent, and stops the agent.  With
#: ``{restart}``, a command, the agent is started again after its end, as by an init system.
_WITH_AGENT = """\
#!/bin/sh
(
    trap 'kill $pid; exit 0' TERM
    while :; do
        {agent} </dev/null 2>>{log} & pid=$!
        wait $pid
        {restart} || exit
        sleep 0.2
    done
) &
loop=$!
until test -s {ready}; do kill -0 $loop || exit 98; sleep 0.05; done
"$@" --nosejobs=agent=localhost:{port}//id=there//slots=2//credentials={client}
status=$?
kill $loop
wait $loop
exit $status
"""


@dataclass(frozen=True)
class NastyPlace:
    """A user, and whether the programs run over an agent of that user."""

    user: str = ""
    agent: bool = False
    #: Whether the agent is started again when it has ended.
    restart: bool = False

    def build_command(self, run: NastyRun) -> list[str]:
        """Return the command that executes the command of a run here."""
        if not self.agent:
            # The files that pytest writes belong to the user, too.
            run.xml.touch()
            if self.user:
                subprocess.run(["chown", self.user, run.xml], check=True)
            return list(corpus.build_user_prefix(self.user))
        return ["sh", str(self._write_script(run))]

    def _write_script(self, run: NastyRun) -> Path:
        """Write the script that starts the agent and executes the command."""
        folder, home = run.tmp / "fleet", run.tmp / "agent_home"
        folder.mkdir()
        home.mkdir()
        authority = FleetAuthority(folder)
        host, client = authority.issue_host(), authority.issue_client()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        ready, log = run.tmp / "port", folder / "log"
        agent = [
            "env", *(f"{name}={value}" for name, value in build_home_variables(home).items()),
            *corpus.build_user_prefix(self.user), sys.executable, "-m", "shell_runner.remote",
            "agent", str(host), "--listen", f"127.0.0.1:{port}", "--port-file", str(ready),
        ]  # fmt: skip
        if self.user:
            subprocess.run(["chown", "-R", self.user, run.tmp], check=True)
        script = folder / "with_agent.sh"
        script.write_text(
            _WITH_AGENT.format(
                agent=shlex.join(agent), port=port, ready=ready, log=log, client=client,
                restart="true" if self.restart else "false",
            )
        )  # fmt: skip
        return script


def is_other_user_able() -> bool:
    """Return whether this user may become the other one, who must be able to run our code."""
    command = [*corpus.build_user_prefix(OTHER_USER), sys.executable, "-c", "import execnet"]
    folder = Path(__file__).parents[2]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
