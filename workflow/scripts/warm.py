"""Processes that start warm: forked from one that has imported what most of them import.

The study starts sixty processes, and each would import for some four seconds. So the driver
starts a server, which imports when it is first asked, and forks. Only third parties' modules
are taken along; this project's are imported by each process anew. A process ends when who
asked for it does, or the driver. Where no server answers, on another node or another system
than Linux, processes start as ever; so do those with other threads or bars, which libraries
settle when they are imported.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

#: The environment variable that names the socket of the server.
SERVER = "STUDY_WARM"
IMPORTED = ("papermill", "ipykernel.kernelapp", "seaborn", "sklearn.linear_model", "h5netcdf")
IMPORTED += ("xarray.backends", "open_clip", "torchvision.transforms.v2", "pydantic")
#: What all processes of the study share. Jobs run side by side, so each keeps to one thread.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # no widgets on a page, and no bars
    "TQDM_DISABLE": "1",
}
#: What a kernel tells matplotlib, which is asked when it is imported.
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
LONGEST = 2**20  # bytes of a question
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG, from Linux's prctl.h


class Process:
    """A forked process, as `subprocess.Popen` shows one."""

    stdin = stdout = stderr = None

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel = channel
        self.pid = pid
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and give the exit code."""
        if self.returncode is None:
            if not select.select([self._channel], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._channel.recv(LONGEST) or -signal.SIGKILL)
            self._channel.close()
        return self.returncode

    def poll(self) -> int | None:
        """Give the exit code, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    output: Sequence[int] = (1, 2),
) -> Process | None:
    """Start Python with arguments: a script, ``-m`` and a module, or ``-c`` and code, and others.

    Its output and errors go to the two open files. None where it has to start as ever.
    """
    environ = dict(os.environ if env is None else env)
    asked = {"command": list(command), "cwd": os.path.abspath(cwd or "."), "env": environ}
    settled = environ.items() >= ENVIRONMENT.items()
    if SERVER not in os.environ or "SLURM_JOB_ID" in os.environ or not settled:
        return None
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with suppress(OSError):
        channel.connect(os.environ[SERVER])
        socket.send_fds(channel, [json.dumps(asked).encode()], output)
        if pid := channel.recv(LONGEST):
            return Process(channel, int(pid))
    channel.close()
    return None


def launch_kernel(command: Sequence[str], **given: Any) -> Any:
    """Do what the function of this name in jupyter_client does."""
    from jupyter_client.launcher import launch_kernel as launch_cold

    forked = start(command[1:], given.get("cwd"), given.get("env"))
    return forked or launch_cold(list(command), **given)


@contextmanager
def serving(*imported: str) -> Iterator[None]:
    """Have a server while the block runs, which imports more modules if these are named.

    What is forked ends with the block.
    """
    if sys.platform != "linux" or SERVER in os.environ:
        yield
        return
    with (
        TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
    ):
        path = str(Path(folder, "socket"))
        try:
            listening.bind(path)
        except OSError:  # the name is too long, or the file system has no sockets
            yield
            return
        listening.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno()), *IMPORTED, *imported],
            stdin=subprocess.PIPE, pass_fds=[listening.fileno()], start_new_session=True,
            env=os.environ | ENVIRONMENT | INLINE,
        )  # fmt: skip
        os.environ[SERVER] = path
        try:
            yield
        finally:
            del os.environ[SERVER]
            server.communicate()


def _become(command: list[str], cwd: str, env: dict[str, str]) -> None:
    """Turn this forked process into the one that is asked for."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    while command[0].startswith("-X"):
        command = command[1:]
    is_file = not command[0].startswith("-")
    sys.argv = command if is_file else command[1:]
    beside = str(Path(command[0]).resolve().parent) if is_file else os.getcwd()
    sys.path[:0] = [beside, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    importlib.invalidate_caches()
    if is_file:
        runpy.run_path(os.path.abspath(command[0]), run_name="__main__")
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


def _keep(channel: socket.socket) -> None:
    """Fork what is asked for, tell when it ends, and end it with who asked, or the driver."""
    asked, files, _, _ = socket.recv_fds(channel, LONGEST, 2)
    driver = os.dup(0)
    for place, file in enumerate((os.open(os.devnull, os.O_RDONLY), *files)):
        os.dup2(file, place)
        os.close(file)
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
        channel.close()
        os.close(driver)
        _leave(_run(json.loads(asked)))
    os.setpgid(child, child)  # before anyone asks for its group, in order to end that
    ended = os.pidfd_open(child)
    with suppress(OSError):
        channel.send(str(child).encode())
    if ended not in select.select([channel, driver, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError):
        channel.send(str(status).encode())


def _serve(listening: socket.socket, imported: Sequence[str]) -> None:
    """Fork for who asks, until the driver, who holds the standard input, is gone."""
    while 0 not in select.select([listening, 0], [], [])[0]:
        channel, _ = listening.accept()
        for name in imported:
            importlib.import_module(name)
        imported = ()
        gc.freeze()  # what is shared is not looked through, and so not copied, by who is forked
        if not os.fork():
            listening.close()
            _keep(channel)
            os._exit(0)
        channel.close()
    shutil.rmtree(Path(listening.getsockname()).parent, ignore_errors=True)
    with suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    # neither the scripts nor this project: who is forked adds what it wants
    own = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.path[:] = [place for place in sys.path if place not in own]
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
