"""A process that starts warm is as one that starts cold, and ends with who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import warm
from conftest import ROOT, run, run_warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the server")
FOREVER = "import time; time.sleep(600)"
TELL = """
import os, sys
import icm_core
if __name__ == "__main__":
    print(sys.argv[1:], os.getcwd(), os.environ["TOLD"], os.environ.get("USER"), icm_core.__file__)
    print(__file__, __name__, sys.path[0], sys.stdin.read(), "pandas" in dir())
    print("wrong", file=sys.stderr)
    sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_script_does_what_it_does_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "in").mkdir()
    script = tmp_path / "in" / "tell.py"
    script.write_text(TELL)
    monkeypatch.setenv("TOLD", "ä\n=b")
    monkeypatch.delenv("USER", raising=False)
    said = [
        (done.returncode, done.stdout, done.stderr)
        for done in (kind("in/tell.py", str(code), "c d", cwd=tmp_path) for kind in (run, run_warm))
    ]
    assert said[0] == said[1]
    assert said[0][0] == code
    assert str(ROOT) in said[0][1]


@pytest.mark.parametrize(
    "command",
    [
        ("-c", "import sys; print(sys.argv); sys.exit('a reason')", "x"),
        ("-c", "raise KeyError('x')"),
        ("-m", "platform"),
        ("-m", "platform", "--wrong"),
    ],
)
def test_modules_and_code_too(command: tuple[str, ...]) -> None:
    cold, forked = run(*command), run_warm(*command)
    assert (cold.returncode, cold.stdout) == (forked.returncode, forked.stdout)
    assert bool(cold.stderr) == bool(forked.stderr)
    assert cold.stderr.splitlines()[-1:] == forked.stderr.splitlines()[-1:]


def test_it_has_third_parties_modules_and_none_of_this_project() -> None:
    names = ["torch", "papermill", "icm_core", "icm_study", "warm"]
    done = run_warm("-c", f"import sys; print(*({{*{names}}} & {{*sys.modules}}))")
    assert set(done.stdout.split()) == {"torch", "papermill"}


def forever() -> warm.Process:
    """Start a process that ends only when it is made to."""
    process = warm.start(["-c", FOREVER])
    assert process is not None
    return process


def test_it_can_be_signalled_and_waited_for() -> None:
    process = forever()
    assert process.poll() is None
    assert os.getpgid(process.pid) == process.pid
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert process.poll() == -signal.SIGTERM
    process.kill()  # nothing is left to be ended


def test_it_is_not_left_behind_by_who_keeps_it() -> None:
    process = forever()
    started = psutil.Process(process.pid)
    started.parent().kill()
    assert psutil.wait_procs([started], timeout=30)[1] == []
    assert process.wait() == -signal.SIGKILL


def test_it_ends_with_who_asked() -> None:
    code = f"print(warm.start(['-c', {FOREVER!r}]).pid, flush=True); time.sleep(600)"
    scripts = str(ROOT / "workflow" / "scripts")
    asking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys, time; sys.path[:0] = [{scripts!r}]; import warm; {code}",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout is not None
    started = psutil.Process(int(asking.stdout.readline()))
    assert started.is_running()
    asking.kill()
    asking.wait()
    assert psutil.wait_procs([started], timeout=30)[1] == []


SERVING = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT / "workflow" / "scripts")!r})
import warm
warm.IMPORTED = ()
with warm.serving():
    process = warm.start(["-c", {FOREVER!r}])
    print(process.pid, os.environ[warm.SERVER], flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_server_ends_with_the_driver(
    monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    monkeypatch.delenv(warm.SERVER)
    driver = subprocess.Popen(
        [sys.executable, "-c", SERVING],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert driver.stdout is not None
    line = driver.stdout.readline().split()
    everyone = psutil.Process(driver.pid).children(recursive=True)
    assert int(line[0]) in {process.pid for process in everyone}
    assert Path(line[1]).exists()
    driver.send_signal(how)
    driver.wait()
    assert psutil.wait_procs(everyone, timeout=30)[1] == []
    deadline = time.monotonic() + 30
    while Path(line[1]).parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_server_nothing_is_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(warm.SERVER, str(tmp_path / "nowhere"))
    assert warm.start(["-c", "pass"]) is None
    assert (
        run("workflow/scripts/job.py", sys.executable, "-c", "raise SystemExit(3)").returncode == 3
    )
    monkeypatch.delenv(warm.SERVER)
    assert warm.start(["-c", "pass"]) is None


def test_where_no_socket_can_be_made_processes_start_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delenv(warm.SERVER)
    with warm.serving():
        assert warm.SERVER not in os.environ
        assert warm.start(["-c", "pass"]) is None
    assert list(long.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), [("OMP_NUM_THREADS", "2"), ("TQDM_DISABLE", None)])
def test_what_libraries_settle_when_they_are_imported_is_not_inherited(
    name: str, value: str | None
) -> None:
    env = {key: one for key, one in os.environ.items() if key != name}
    env |= {name: value} if value else {}
    assert warm.start(["-c", "pass"], env=env) is None


def test_a_job_that_is_no_python_is_started_as_it_is() -> None:
    assert run("workflow/scripts/job.py", "sh", "-c", "exit 5").returncode == 5


def test_a_job_of_slurm_is_not_forked_beside_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert warm.start(["-c", "pass"]) is None
