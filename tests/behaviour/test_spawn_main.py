"""How children find the main module, whatever way the program was started."""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import sidestep
from sidestep import spawn

FRESH = ("spawn", "forkserver")
METHODS = ("fork", *FRESH)

PROGRAM = textwrap.dedent("""
    import sys
    import sidestep

    class Word:
        def __init__(self, word):
            self.word = word

    def child(word):
        assert isinstance(word, Word), word
        print(word.word, __name__, sys.argv[1:], flush=True)

    if __name__ == "__main__":
        process = sidestep.get_context(sys.argv[1]).Process(target=child, args=(Word("hello"),))
        process.start()
        process.join()
        sys.exit(process.exitcode)
""")


def program(*command: "str | Path", cwd: Path, text: str | None = None) -> tuple[int, str, str]:
    """Run an interpreter with `command`, fed with `text`."""
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, input=text, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def expected(method: str, name: str = "__mp_main__") -> tuple[int, str, str]:
    return 0, f"hello {'__main__' if method == 'fork' else name} ['{method}']\n", ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flags", [(), ("-E", "-S", "-O"), ("-X", "dev", "-W", "error")])
def test_script(method: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PROGRAM)
    place = str(Path(sidestep.__file__).parent.parent)
    if "-S" in flags:
        # Nothing but the script itself knows where the package is.
        text = PROGRAM.replace("import sys\n", f"import sys; sys.path.append({place!r})\n", 1)
        (tmp_path / "script.py").write_text(text)
    assert program(*flags, "script.py", method, cwd=tmp_path) == expected(method)


@pytest.mark.parametrize("method", METHODS)
def test_script_that_goes_elsewhere(method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        PROGRAM.replace('"__main__":\n', '"__main__":\n    import os; os.chdir("/")\n')
    )
    assert program("script.py", method, cwd=tmp_path) == expected(method)


@pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0),
    reason="this interpreter cannot import socket where there is no current directory",
)
@pytest.mark.parametrize("method", FRESH)
def test_script_in_a_directory_that_was_removed(method: str, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "script.py").write_text(
        PROGRAM.replace('"__main__":\n', '"__main__":\n    import os; os.rmdir(os.getcwd())\n')
    )
    assert program(tmp_path / "script.py", method, cwd=tmp_path / "away") == expected(method)


@pytest.mark.parametrize("method", METHODS)
def test_module(method: str, tmp_path: Path) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("")
    (package / "module.py").write_text("from . import helper\n" + PROGRAM)
    assert program("-m", "some_package.module", method, cwd=tmp_path) == expected(method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["package", "directory", "zip"])
def test_main_of_a_package_runs_once(method: str, kind: str, tmp_path: Path) -> None:
    # Such a module has no guard: what it needs in children is imported from elsewhere.
    place = tmp_path / "some_place"
    place.mkdir()
    work = PROGRAM.replace('if __name__ == "__main__":', "def main():")
    (place / "work_module.py").write_text(work)
    origin = "some_place.work_module" if kind == "package" else "work_module"
    (place / "__main__.py").write_text(f"from {origin} import main\nmain()\n")
    command: tuple[str, ...] = ("-m", "some_place") if kind == "package" else ("some_place",)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
            for file in place.iterdir():
                archive.write(file, file.name)
        command = ("some.zip",)
    code, out, err = program(*command, method, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out == f"hello {origin} ['{method}']\n"


@pytest.mark.parametrize("method", METHODS)
def test_program_given_on_the_command_line(method: str, tmp_path: Path) -> None:
    # There is nothing that the child could import: functions and classes go by value.
    assert program("-c", PROGRAM, method, cwd=tmp_path) == expected(method, "__main__")


@pytest.mark.parametrize("method", METHODS)
def test_program_typed_in(method: str, tmp_path: Path) -> None:
    code, out, err = program("-", method, cwd=tmp_path, text=PROGRAM)
    assert (code, out, err) == expected(method, "__main__")


@pytest.mark.parametrize("method", FRESH)
def test_functions_of_an_interactive_session_go_by_value(method: str, tmp_path: Path) -> None:
    session = textwrap.dedent(f"""
        import sidestep
        def child(word): print("child says", word, flush=True)

        process = sidestep.get_context("{method}").Process(target=child, args=("hello",))
        process.start(); process.join(); print("code", process.exitcode)
    """)
    code, out, _ = program("-i", "-q", cwd=tmp_path, text=session)
    assert (code, out) == (0, "child says hello\ncode 0\n")


@pytest.mark.parametrize("method", FRESH)
def test_script_without_guard_is_told_what_is_missing(method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
            import sidestep, sys
            process = sidestep.get_context("{method}").Process(target=print, args=("never",))
            process.start()
            process.join()
            sys.exit(process.exitcode)
        """)
    )
    code, out, err = program("script.py", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err.count("RuntimeError: ") == 1
    assert 'if __name__ == "__main__":' in err


@pytest.mark.parametrize("method", FRESH)
def test_main_module_that_cannot_be_imported_again_fails_in_the_child(
    method: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(
        PROGRAM.replace("class Word", 'if __name__ != "__main__": 1 / 0\nclass Word')
    )
    code, out, err = program("script.py", method, cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err.count("ZeroDivisionError: ") == 1


def test_fork_needs_no_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        'import sidestep\np = sidestep.get_context("fork").Process(target=print, args=("once",))\n'
        "p.start()\np.join()\n"
    )
    assert program("script.py", cwd=tmp_path) == (0, "once\n", "")


def test_embedded_interpreter_without_an_executable(tmp_path: Path) -> None:
    text = textwrap.dedent("""
        import sys
        sys.executable = None
        import sidestep
        import sidestep.spawn
        assert sidestep.spawn.get_executable() is None
        try:
            sidestep.get_context("spawn").Process(target=print).start()
        except RuntimeError as error:
            print(error)
    """)
    code, out, err = program("-c", text, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "call set_executable() first" in out


def test_executable_can_be_a_path_of_any_kind() -> None:
    before = spawn.get_executable()
    try:
        for path in (sys.executable, os.fsencode(sys.executable), Path(sys.executable)):
            sidestep.set_executable(path)
            assert spawn.get_executable() == os.fsencode(sys.executable)
    finally:
        sidestep.set_executable(before)


# --- frozen executables ---------------------------------------------------------------------


def test_frozen_executable_runs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    line = spawn.get_command_line(pipe_handle=7, arena_fd=None)
    assert line == [sys.executable, "--multiprocessing-fork", "pipe_handle=7", "arena_fd=None"]
    calls = []
    monkeypatch.setattr(spawn, "spawn_main", lambda **kwds: calls.append(kwds))
    monkeypatch.setattr(sys, "argv", line)
    sidestep.freeze_support()
    assert calls == [{"pipe_handle": 7, "arena_fd": None}]


def test_freeze_support_does_nothing_in_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    sidestep.freeze_support()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    sidestep.freeze_support()


def test_spawn_main_is_for_children_only() -> None:
    with pytest.raises(RuntimeError, match="for children"):
        spawn.spawn_main(0)


def test_a_frozen_program_starts_processes_of_all_kinds(tmp_path: Path) -> None:
    # What a program that was made into an executable looks like to itself. PyInstaller's start
    # takes the directory of the start away as well.
    app = tmp_path / "app"
    app.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(Path(sidestep.__file__).parent.parent)!r})
            sys.frozen = True
            sys.executable = __file__
            import sidestep
            from sidestep import shared_memory
            sidestep.process.ORIGINAL_DIR = None

            def work(name):
                block = shared_memory.SharedMemory(name)
                block.buf[0] += 1
                block.close()

            if __name__ == "__main__":
                sidestep.freeze_support()
                block = shared_memory.SharedMemory(create=True, size=1)
                for method in sidestep.get_all_start_methods():
                    child = sidestep.get_context(method).Process(target=work, args=(block.name,))
                    child.start()
                    child.join()
                print(block.buf[0], sys.argv[1:])
                block.close()
                block.unlink()
        """)
    )
    app.chmod(0o755)
    done = subprocess.run([app, "argument"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 ['argument']\n", "")
