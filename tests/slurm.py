"""A Slurm of two small nodes on this machine: real daemons, all of their state in one folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NODES = ("n1", "n2")

CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
PriorityType=priority/basic
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=2
MailProg=/bin/true
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Daemons that this process started; each can be killed and started again.

    Parameters
    ----------
    folder : Path
        Holds keys, sockets, logs and the state of the controller.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        conf, programs = folder / "slurm.conf", folder / "bin"
        self.environment = os.environ | {"SLURM_CONF": str(conf), "PATH": f"{programs}:{SBIN}"}
        for name in ("state", "bin"):
            (folder / name).mkdir()
        # Snakemake hides the variables of Slurm from what it starts in a job
        srun = programs / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        folder.chmod(0o755)  # munged refuses a socket that others cannot reach
        conf.write_text(
            CONF.format(
                host=socket.gethostname(), folder=folder, user=getpass.getuser(),
                ports=_free_ports(3),
            )
        )  # fmt: skip

    def start(self, name: str) -> None:
        """Start one daemon: munged, slurmctld, or the slurmd of a node."""
        place = str(self.folder)
        commands = {
            "munged": [
                "munged", "--foreground", "--force", f"--socket={place}/munge.socket",
                f"--key-file={place}/munge.key", f"--log-file={place}/munged.log",
                f"--pid-file={place}/munged.pid", f"--seed-file={place}/munged.seed",
            ],
            "slurmctld": ["slurmctld", "-D"],
            **{node: ["slurmd", "-D", "-N", node] for node in NODES},
        }  # fmt: skip
        with (self.folder / f"{name}.out").open("a") as out:
            self.daemons[name] = subprocess.Popen(
                commands[name], env=self.environment, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """Kill one daemon as a lost power supply would."""
        self.daemons[name].kill()
        self.daemons.pop(name).wait()

    def save(self, job: str) -> None:
        """Have the controller write down all that it knows, by a change of a job that runs."""
        self.call("scontrol", "update", f"JobId={job}", "TimeLimit=+1")
        state, changed = self.folder / "state" / "job_state", time.time()
        wait_for(lambda: state.exists() and state.stat().st_mtime > changed)

    def call(self, *command: str) -> str:
        """Run one of Slurm's commands; give what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def states(self) -> list[str]:
        """Say the states of the nodes."""
        return self.call("sinfo", "--noheader", "--Node", "--format=%T").split()

    def ready(self) -> bool:
        """Say whether both nodes can take jobs."""
        return self.states() == ["idle"] * len(NODES)

    def stop(self) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self.daemons:
            self.call("scancel", "--user", getpass.getuser(), "--signal=KILL")
            self.call("scancel", "--user", getpass.getuser())
            with suppress(AssertionError):  # the daemons are killed anyway
                wait_for(lambda: not self.call("squeue", "--noheader"), 20)
        for name in [*NODES, "slurmctld", "munged"]:
            if name in self.daemons:
                self.kill(name)
        ours = self.environment["SLURM_CONF"]
        for process in psutil.process_iter(["environ"]):  # what escaped its job
            if (process.info["environ"] or {}).get("SLURM_CONF") == ours:
                process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until `condition` is true; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def missing() -> list[str]:
    """Name the programs of Slurm that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SBIN)]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start a cluster, and end it whatever happens."""
    started = Cluster(folder)
    try:
        started.start("munged")
        wait_for(lambda: (folder / "munge.socket").exists())
        for name in ("slurmctld", *NODES):
            started.start(name)
        wait_for(started.ready)
        yield started
    finally:
        started.stop()
