"""A master.cfg of Buildbot that does what the benchmark ``dispatcher`` has nosejobs do.

Copied beside ``settings.json``, which says ports, workers and where to say what happens; imported
here only to be found.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def _config(told: dict[str, Any]) -> dict[str, Any]:
    from buildbot.plugins import schedulers, steps, util, worker

    names = told["names"]

    def builder(name: str, command: str = "exit 0") -> Any:
        factory = util.BuildFactory([steps.ShellCommand(command=["/bin/sh", "-c", command])])
        return util.BuilderConfig(name=name, workernames=names, factory=factory)

    def first(name: str, project: str) -> Any:
        return schedulers.AnyBranchScheduler(
            name=name,
            change_filter=util.ChangeFilter(project=project),
            treeStableTimer=None,
            builderNames=[name],
        )

    stages = told["stages"]
    chain = [first(stages[0], "chain")]
    for name in stages[1:]:
        chain.append(schedulers.Dependent(name=name, upstream=chain[-1], builderNames=[name]))
    return {
        "title": "bench",
        "buildbotURL": f"http://127.0.0.1:{told['web']}/",
        "buildbotNetUsageData": None,
        "collapseRequests": False,
        "db": {"db_url": "sqlite:///state.sqlite"},
        "protocols": {"pb": {"port": f"tcp:{told['workers']}:interface=127.0.0.1"}},
        "www": {
            "port": f"tcp:{told['web']}:interface=127.0.0.1",
            "change_hook_dialects": {"base": True},
        },
        "workers": [worker.Worker(name, "x") for name in names],
        "builders": [
            builder("hook", f"echo runs > {told['heard']}"),
            builder("many"),
            *map(builder, stages),
        ],
        "schedulers": [first("hook", "hook"), first("many", "many"), *chain],
        "services": [make_reporter()(told["done"])],
    }


def make_reporter() -> Any:
    """Report when a worker has connected, and how each build has ended."""
    from buildbot.util.service import BuildbotService

    class Teller(BuildbotService):  # type: ignore[misc]
        name = "teller"

        def checkConfig(self, path: str) -> None:
            pass

        async def reconfigService(self, path: str) -> None:
            self._path = path

        async def startService(self) -> None:
            await super().startService()
            consume = self.master.mq.startConsuming
            await consume(self._come, ("workers", None, "connected"))
            await consume(self._done, ("builds", None, "finished"))

        def _come(self, key: object, message: dict[str, Any]) -> None:
            self._say(f"up {message['name']}")

        def _done(self, key: object, message: dict[str, Any]) -> None:
            self._say(str(message["results"]))

        def _say(self, words: str) -> None:
            descriptor = os.open(self._path, os.O_WRONLY)
            os.write(descriptor, f"{words}\n".encode())
            os.close(descriptor)

    return Teller


if Path(__file__).name == "master.cfg":
    BuildmasterConfig = _config(json.loads((Path(__file__).parent / "settings.json").read_text()))
