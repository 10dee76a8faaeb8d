"""Unmodified programs under `python -m sidestep`: what they and their descendants see."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run

Script = Callable[..., str]

# Prints one word for each process that runs it: who answers for multiprocessing.
IS_OURS = """\
import multiprocessing, multiprocessing.queues, sys
import sidestep, sidestep.queues
ours = (
    sys.modules["multiprocessing"] is sidestep is multiprocessing
    and multiprocessing.queues is sidestep.queues
    and multiprocessing.Queue(1).__class__ is sidestep.queues.Queue
)
print("ours" if ours else "original", flush=True)
"""


def said(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What a program has printed, after it ended well and without complaints."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# --- every process --------------------------------------------------------------------------


def test_the_program_itself(run: Run, script: Script) -> None:
    assert said(run(script(IS_OURS))) == ["ours"]
    assert said(run("-c", IS_OURS)) == ["ours"]
    assert said(run("-", input=IS_OURS)) == ["ours"]
    script(IS_OURS, "package/part.py")
    assert said(run("-m", "package.part")) == ["ours"]


@pytest.mark.parametrize("flags", ["", "-E", "-I", "-S", "-IS", "-ES", "-s", "-P", "-B", "-OO"])
def test_an_interpreter_that_the_program_starts(run: Run, script: Script, flags: str) -> None:
    options = [flags] if flags else []
    text = f"""\
import subprocess, sys
subprocess.run([sys.executable, *{options!r}, "-c", {IS_OURS!r}], check=True)
"""
    assert said(run(script(text))) == ["ours"]
    if "S" not in flags:  # which would not find the package itself
        assert said(run(script(IS_OURS), flags=tuple(options))) == ["ours"]


def test_an_interpreter_of_an_interpreter_without_an_environment(run: Run, script: Script) -> None:
    text = f"""\
import subprocess, sys
inner = {IS_OURS!r}
outer = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {{inner!r}}])"
subprocess.run([sys.executable, "-IS", "-c", outer], env={{}}, check=True)
"""
    assert said(run(script(text))) == ["ours"]


def test_exec(run: Run, script: Script) -> None:
    text = f"import os, sys; os.execv(sys.executable, [sys.executable, '-I', '-c', {IS_OURS!r}])"
    assert said(run(script(text))) == ["ours"]
    text = f"import os, sys; os.execle(sys.executable, sys.executable, '-c', {IS_OURS!r}, {{}})"
    assert said(run(script(text))) == ["ours"]


def test_the_interpreter_by_its_real_name(run: Run, script: Script) -> None:
    # As the first line of an installed script has it.
    text = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {IS_OURS!r}])"
    assert said(run(script(text))) == ["ours"]


def test_the_interpreter_by_its_name_on_the_path(
    run: Run, script: Script, environment: dict[str, str], tmp_path: Path
) -> None:
    own = str(Path(sys.executable).parent)
    environment["PATH"] = f"{own}:{environment.get('PATH', '')}"
    name = Path(sys.executable).name
    text = f"import subprocess; subprocess.run([{name!r}, '-I', '-c', {IS_OURS!r}])"
    assert said(run(script(text))) == ["ours"]

    (tmp_path / "tool").write_text(f"#!/usr/bin/env {name}\n{IS_OURS}")
    (tmp_path / "tool").chmod(0o755)
    assert said(run(script("import subprocess; subprocess.run(['./tool'])"))) == ["ours"]


def test_another_interpreter_on_the_path_stays_that_one(
    run: Run, script: Script, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\necho another\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment.get('PATH', '')}"
    assert said(run(script("import subprocess; subprocess.run(['python3'])"))) == ["another"]


def test_an_interpreter_that_cannot_have_the_package_keeps_the_original(
    run: Run, script: Script, tmp_path: Path
) -> None:
    # What any other Python does that meets the overlay on its path.
    text = f"""\
import os, subprocess
overlay = os.environ["PYTHONPATH"].split(":")[0]
program = '''
import sys
class Refuse:
    def find_spec(name, path=None, target=None):
        if name == "sidestep":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse)
import multiprocessing, multiprocessing.queues
print(multiprocessing.__file__)
print(multiprocessing.queues.__name__)
'''
subprocess.run([{sys.executable!r}, "-c", program], env={{"PYTHONPATH": overlay}})
"""
    original, name = said(run(script(text)))
    assert original.endswith("/multiprocessing/__init__.py") and "overlay" not in original
    assert name == "multiprocessing.queues"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children(run: Run, script: Script, method: str) -> None:
    text = f"""\
import logging
import multiprocessing
import multiprocessing.queues
import sys

def work(queue):
    logging.warning("from the child")
    import sidestep
    queue.put((sys.modules["multiprocessing"] is sidestep, sys.executable))

logging.basicConfig(format="%(processName)s %(message)s", stream=sys.stdout)

if __name__ == "__main__":
    assert multiprocessing.get_start_method() == {method!r}
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=work, args=(queue,), name="Child")
    child.start()
    ours, executable = queue.get()
    child.join()
    assert ours and executable == sys.executable and child.exitcode == 0
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
"""
    assert said(run("--start-method", method, script(text))) == ["Child from the child"]
    script(text, "package/part.py")
    done = run("--start-method", method, "-m", "package.part")
    assert said(done) == ["Child from the child"]
    assert said(run(f"--start-method={method}", "program.py", flags=("-I",)))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_executors(run: Run, script: Script, method: str) -> None:
    text = """\
import concurrent.futures
import os
import sys

def work(number):
    import sidestep
    return number * 2, sys.modules["multiprocessing"] is sidestep

if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        print(list(executor.map(work, range(3))))
"""
    expected = ["[(0, True), (2, True), (4, True)]"]
    assert said(run("--start-method", method, script(text))) == expected


def test_shared_memory_and_its_tracker(run: Run, script: Script) -> None:
    text = """\
from multiprocessing import Process, shared_memory, get_context

def work(name):
    block = shared_memory.SharedMemory(name)
    block.buf[0] += 1
    block.close()

if __name__ == "__main__":
    block = shared_memory.SharedMemory(create=True, size=1)
    for method in "fork", "spawn", "forkserver":
        child = get_context(method).Process(target=work, args=(block.name,))
        child.start()
        child.join()
    print(block.buf[0])
    block.close()
    block.unlink()
"""
    assert said(run(script(text))) == ["3"]


def test_a_program_without_the_guard_gets_the_usual_error(run: Run, script: Script) -> None:
    text = """\
import multiprocessing
child = multiprocessing.get_context("spawn").Process(target=print)
child.start()
child.join()
raise SystemExit(child.exitcode)
"""
    done = run(script(text))
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr and 'if __name__ == "__main__":' in done.stderr


# --- nothing else is different --------------------------------------------------------------

LOOK = """\
import json, os, site, sys, sysconfig
print(json.dumps({
    "argv": sys.argv,
    "path": [entry for entry in sys.path if not entry.endswith("overlay")],
    "prefixes": [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix],
    "flags": str(sys.flags),
    "options": [sys._xoptions, sys.warnoptions],
    "main": [__name__, str(globals().get("__file__")), str(__spec__)[:40], str(__package__)],
    "paths": sysconfig.get_paths(),
    "variables": sysconfig.get_config_var("LIBDIR"),
    "site": [site.getsitepackages(), site.getusersitepackages(), site.ENABLE_USER_SITE],
    "files": {name: getattr(found, "__file__", None) for name, found in sys.modules.items()},
    "importers": sorted(sys.path_importer_cache),
    "base": sys._base_executable,
    "directory": os.getcwd(),
    "stdin": sys.stdin.read(),
}, default=str))
"""


@pytest.mark.parametrize(
    "flags",
    [(), ("-I",), ("-s", "-P"), ("-X", "dev", "-W", "error"), ("-Bu",)],
    ids=" ".join,
)
def test_the_program_sees_what_it_would_see_without_us(
    run: Run, script: Script, flags: tuple[str, ...]
) -> None:
    name = script(LOOK)
    script(LOOK, "package/__main__.py")
    for arguments in ([name, "-x", "--start-method", "y"], ["-m", "package", "z"], ["-c", LOOK]):
        ours = run(*arguments, flags=flags, input="read by the program")
        plain = run(*arguments, flags=flags, input="read by the program", plain=True)
        if plain.returncode:  # -m of the current directory, in isolation
            assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
            continue
        assert json.loads(said(ours)[0]) == json.loads(said(plain)[0])


@pytest.mark.parametrize(
    "text",
    [
        "raise SystemExit(3)",
        "raise SystemExit('a sentence')",
        "import sys; sys.exit()",
        "import os; os._exit(7)",
        "import json; json.loads('{')",
        "def f(): 1 / 0\ntry: f()\nexcept Exception as e: raise ValueError('x') from e",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import threading; threading.Thread(target=lambda: 1 / 0).start()",
        "import atexit; atexit.register(print, 'last'); 1 / 0",
        "syntax error",
    ],
)
def test_how_a_program_ends(run: Run, script: Script, text: str) -> None:
    name = script(text)
    script(text, "package/part.py")
    for arguments in ([name], ["-m", "package.part"], ["-c", text], ["not_there.py"]):
        ours, plain = run(*arguments), run(*arguments, plain=True)
        assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
        # A missing file is reported in the interpreter's own name.
        expected = plain.stderr.replace(f"{sys.executable}: can't", "can't")
        assert ours.stderr.partition(": can't")[2] == plain.stderr.partition(": can't")[2]
        if "can't" not in expected:
            mask = Path(sys.executable).parent
            assert ours.stderr.replace(str(mask), "") == plain.stderr.replace(str(mask), "")


def test_ctrl_c_ends_the_program_by_the_signal(
    environment: dict[str, str], script: Script, tmp_path: Path
) -> None:
    name = script("import time; print('ready', flush=True); time.sleep(100)")
    with subprocess.Popen(
        [sys.executable, "-m", "sidestep", name],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None and program.stderr is not None
        assert program.stdout.readline() == "ready\n"
        # The process that was started is the program: there is no other one in between.
        program.send_signal(signal.SIGINT)
        assert program.wait() == -signal.SIGINT
        assert program.stderr.read().endswith("KeyboardInterrupt\n")


def test_running_sidestep_within_sidestep_changes_nothing(run: Run, script: Script) -> None:
    text = f"""\
import subprocess, sys
subprocess.run([sys.executable, "-m", "sidestep", "-c", {IS_OURS!r}], check=True)
subprocess.run([{sys.executable!r}, "-m", "sidestep", "-c", {IS_OURS!r}], check=True)
"""
    assert said(run(script(text))) == ["ours", "ours"]
