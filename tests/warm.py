"""Processes that are forked from one which has imported the libraries already.

Most of what a new process computes in a test is the import of torch, open_clip or Snakemake.
Here one process imports them once. Each fork of it runs a script, or a module as ``-m``, as
its main program with the arguments, the folder, the environment and the output that it is
given, in a session of its own, up to the interpreter's own exit.

    python tests/warm.py serve ADDRESS MODULE…   # import, then fork at each connection
    python tests/warm.py run ADDRESS COMMAND…    # such a process, seen as one of this command
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

#: What notebooks import, and tests.
LIBRARIES = ("ipykernel.kernelapp", "matplotlib_inline.backend_inline", "seaborn", "torch")
LIBRARIES += ("torchvision.transforms.v2", "open_clip", "sklearn.linear_model", "pyarrow.parquet")
LIBRARIES += ("icm_study.experiments.study", "icm_study.report.figures", "scipy.stats", "h5netcdf")
LIBRARIES += ("hypothesis", "psutil", "pytest")
#: What the workflow imports, some of it late.
SNAKEMAKE = ("snakemake.cli", "snakemake.report", "jinja2", "pandas", "pydantic", "smart_open")
SNAKEMAKE += ("yte",)


class Warm:
    """A process that has imported modules, and starts others.

    Parameters
    ----------
    address : Path
        A file that is not there yet, for its socket.
    modules : str
    """

    def __init__(self, address: Path, *modules: str):
        self.address = str(address)
        command = [sys.executable, __file__, "serve", self.address, *modules]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

    def start(self, *command: Any, **given: Any) -> Process:
        """Start a script with its arguments, see :class:`Process`."""
        return Process(self.address, [str(word) for word in command], **given)

    def run(self, *command: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a script with its arguments to its end, and keep what it says."""
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
            files = (subprocess.DEVNULL, said.fileno(), told.fileno())
            process = self.start(*command, cwd=cwd, files=files)
            code = process.wait(600)
            said.seek(0)
            told.seek(0)
            return subprocess.CompletedProcess(command, code, said.read(), told.read())

    def write_kernelspec(self, folder: Path) -> None:
        """Write a kernel "python3" of these under a folder for ``JUPYTER_PATH``."""
        command = [sys.executable, "-S", __file__, "run", self.address, "-m", "ipykernel_launcher"]
        spec = {
            "argv": [*command, "-f", "{connection_file}"],
            "display_name": "Python 3", "language": "python",
        }  # fmt: skip
        path = folder / "kernels" / "python3" / "kernel.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(spec))

    def close(self) -> None:
        """End it, and what it started."""
        assert self._server.poll() is None
        self._server.communicate()


class Process:
    """A process that :class:`Warm` forked, to be used as one of `subprocess`.

    Parameters
    ----------
    address : str
    command : list of str
    cwd, env
        As of `subprocess.Popen`.
    files : three of int
        Descriptors that become its input and outputs.
    """

    def __init__(
        self,
        address: str,
        command: list[str],
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        files: tuple[int, int, int] = (0, 1, 2),
    ):
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        environment = dict(os.environ) if env is None else env
        given = {"command": command, "folder": str(cwd or Path.cwd()), "environment": environment}
        with open(os.devnull, "rb+") as nothing:
            files_given = [nothing.fileno() if f == subprocess.DEVNULL else f for f in files]
            socket.send_fds(self._connection, [json.dumps(given).encode()], files_given)
        self._answers = self._connection.makefile()
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """Give the exit code, or None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and give the exit code."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a warm process", timeout or 0)
            self.returncode = int(self._answers.readline())
            self._connection.close()
        return self.returncode

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def serve(address: str, modules: list[str]) -> dict[str, Any]:
    """Import, and fork at each connection until the input ends; return in what was forked."""
    import importlib

    for module in modules:
        importlib.import_module(module)
    minders = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while 0 not in select.select([listening, 0], [], [])[0]:
            connection, _ = listening.accept()
            minders.append(os.fork())
            if minders[-1] == 0:
                listening.close()
                return mind(connection)
            connection.close()
    for minder in minders:
        os.waitpid(minder, 0)
    sys.exit()


def mind(connection: socket.socket) -> dict[str, Any]:
    """Fork once more and return there; tell the exit code of that process, or end it."""
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    worker = os.fork()
    if worker == 0:
        connection.close()
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return json.loads(message)
    for file in files:
        os.close(file)

    def obey() -> None:
        while number := connection.recv(1):
            os.kill(worker, number[0])
        os.kill(worker, signal.SIGKILL)  # whoever asked for it is gone

    connection.sendall(f"{worker}\n".encode())
    threading.Thread(target=obey, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    try:
        connection.sendall(f"{code}\n".encode())
    finally:
        os._exit(0)


def run_main(command: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run a script, or a module after ``-m``, as the main program."""
    import runpy

    os.environ.clear()
    os.environ.update(environment)
    os.environ.pop("JPY_PARENT_PID", None)  # Jupyter is not the parent, and its end is told
    os.chdir(folder)
    is_module = command[0] == "-m"
    sys.argv = command[is_module:]
    first = "" if is_module else str(Path(command[0]).resolve().parent)
    sys.path[:1] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def be_process(address: str, command: list[str]) -> int:
    """Start a command, hand signals on to it, and give its exit code."""
    process = Process(address, command)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(process.pid, number))
    return process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        run_main(**serve(sys.argv[2], sys.argv[3:]))
    else:
        sys.exit(be_process(sys.argv[2], sys.argv[3:]))
