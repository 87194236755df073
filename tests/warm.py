"""Processes that start warm: forked from one that has imported what all of them import.

A kernel of a notebook imports for some six seconds, a driver of the study for one and a half.
Third parties' modules only are taken along; this project's are imported by each process anew.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PRELOADED = {
    "driver": ("snakemake.cli", "snakemake.executors.local", "pydantic", "pyarrow.parquet"),
    "kernel": ("ipykernel.kernelapp", "open_clip", "seaborn"),
}
#: What a kernel tells matplotlib, which is asked when it is imported.
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}


class Process:
    """A forked process, as `subprocess.Popen` shows one."""

    stdin = stdout = stderr = None

    def __init__(self, server: Server, **asked: Any) -> None:
        self._server = server
        self.pid = server.ask(**asked)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Give the exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask(pid=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and give the exit code."""
        deadline = time.monotonic() + timeout if timeout else None
        while self.poll() is None:
            if deadline and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that has imported everything, and forks."""

    def __init__(self, kind: str) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno()), *PRELOADED[kind]],
            env=os.environ | (INLINE if kind == "kernel" else {}),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._socket, self._channel = ours, ours.makefile("rw")

    def ask(self, **asked: Any) -> Any:
        """Send a question, and give the answer."""
        self._channel.write(json.dumps(asked) + "\n")
        self._channel.flush()
        return json.loads(self._channel.readline())

    def stop(self) -> None:
        """End it."""
        self._channel.close()
        self._socket.close()
        self._process.wait()


_started: list[Server] = []


@functools.cache
def server(kind: str) -> Server:
    """Give the server of a kind, which the first call starts."""
    _started.append(Server(kind))
    return _started[-1]


def stop() -> None:
    """End the servers."""
    while _started:
        _started.pop().stop()
    server.cache_clear()


def start(
    kind: str,
    command: Sequence[str],
    cwd: str | Path,
    env: Mapping[str, str],
    output: Sequence[str] = (),
) -> Process:
    """Start Python with arguments: a script, ``-m`` and a module, or ``-c`` and code, and others.

    The output and the errors go to two files, if these are given.
    """
    return Process(
        server(kind), command=list(command), cwd=str(cwd), env=dict(env), output=list(output)
    )


def run(kind: str, *command: str, cwd: str | Path = ".") -> subprocess.CompletedProcess[str]:
    """Run what `start` starts to its end, and keep what it says."""
    with TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("output", "errors")]
        process = start(
            kind, command, Path(cwd).resolve(), os.environ, [str(file) for file in said]
        )
        try:
            status = process.wait(600)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, status, *(file.read_text() for file in said))


def launch_kernel(command: Sequence[str], **given: Any) -> Process:
    """Do what the function of this name in jupyter_client does."""
    return start("kernel", command[1:], given.get("cwd") or os.getcwd(), given["env"])


def _become(command: list[str], cwd: str, env: dict[str, str], output: list[str]) -> None:
    """Turn this forked process into the one that is asked for."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(output, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    while command[0].startswith("-X"):
        command = command[1:]
    is_file = not command[0].startswith("-")
    sys.argv = command if is_file else command[1:]
    beside = str(Path(command[0]).resolve().parent) if is_file else os.getcwd()
    sys.path[:0] = [beside, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    importlib.invalidate_caches()
    if is_file:
        runpy.run_path(command[0], run_name="__main__")
    elif command[0] == "-m":
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = "-c"
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})


def _run(asked: dict[str, Any]) -> int:
    """Be what is asked for until its end, and give the exit code."""
    try:
        _become(**asked)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _leave(code: int) -> None:
    """End as Python does, but for taking apart every module, which copies what is shared."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(channel: Any) -> None:
    for line in channel:
        asked = json.loads(line)
        if "pid" in asked:
            ended, status = os.waitpid(asked["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if not answer:
                _leave(_run(asked))
            os.setpgid(answer, answer)  # before anyone asks for its group, in order to end that
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    sys.path[0:1] = []  # not the tests
    sys.path[:] = [
        place
        for place in sys.path
        if place not in os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ]
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # kernels end with it; asked at their import
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # what is shared is not looked through, and so not copied, by who is forked
    _serve(socket.socket(fileno=int(sys.argv[1])).makefile("rw"))
