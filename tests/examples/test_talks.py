"""The small examples, run as a user runs them: a fresh interpreter, and what it prints."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: str, timeout: float = 100) -> list[str]:
    """The lines an example prints; it must end well and say nothing on stderr."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_another_process_says_hello() -> None:
    assert run("hello_process.py", "Ada") == [
        "hello Ada, from another process",
        "greeter ended with exit code 0",
    ]


def test_pipe_answers_until_the_caller_hangs_up() -> None:
    assert run("talk_through_a_pipe.py") == [
        "3 numbers: sum 15, largest 8",
        "2 numbers: sum 4.0, largest 2.5",
        "101 numbers: sum 5050, largest 100",
        "the caller hung up",
    ]


def test_queue_hands_over_whatever_pickles() -> None:
    assert run("pass_by_queue.py") == [
        "ann sent 42",
        "bob sent None",
        "cid sent ['hello', {'answer': (4, 2)}]",
        "the queue is empty: True",
    ]


def test_lock_keeps_600_numbers_in_order() -> None:
    expected = [str(number) for number in range(1, 601)]
    assert run("two_and_a_lock.py") == [*expected, "the counter stands at 600"]


def test_shared_memory_is_seen_by_all() -> None:
    squares = [number * number for number in range(20)]
    assert run("shared_values.py") == [
        "4 children counted to 4000",
        f"squares: {squares}",
        f"doubled by numpy, without a copy: the last one is now {2 * squares[-1]}",
    ]


def test_cubes_by_apply_and_by_map_are_the_same() -> None:
    assert run("cubes.py") == [
        "apply: [1, 8, 27, 64] ... 1000000",
        "map:   [1, 8, 27, 64] ... 1000000",
        "the same: True",
    ]


@pytest.mark.parametrize("package", ["multiprocessing", "sidestep"])
def test_reader_and_writer_time_one_package(package: str) -> None:
    (line,) = run("reader_and_writer.py", "--package", package, "1000")
    assert re.fullmatch(rf" +1,000 numbers  {package} +\d+\.\d{{4}} s", line)


def test_reader_and_writer_compare_both_packages() -> None:
    lines = run("reader_and_writer.py", "100", "10000")
    assert [line.split()[0] for line in lines] == ["100"] * 3 + ["10,000"] * 3
    for line in (lines[2], lines[5]):
        assert re.search(r"sidestep is \d+\.\d times as fast$", line)


@pytest.mark.slow
def test_reader_and_writer_with_a_million_numbers() -> None:
    (line,) = run("reader_and_writer.py", "--package", "sidestep", "1000000")
    assert line.split()[:3] == ["1,000,000", "numbers", "sidestep"]


def test_words_are_counted_the_same_alone_and_together() -> None:
    lines = run("count_words.py", "--files", "150", "--processes", "3")
    assert re.fullmatch(r"150 files, \d+\.\d MB", lines[0])
    assert re.fullmatch(r"[\d,]+ words, [\d,]+ different ones", lines[1])
    assert lines[2].startswith("most frequent: self ")
    assert lines[3] == "the same counts: True"
    assert re.fullmatch(r"serial .* s, 3 processes .* s: .* times as fast", lines[4])


def test_words_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one two TWO x y 3\n")
    (tmp_path / "b.py").write_text("two_three three\n")
    lines = run("count_words.py", str(tmp_path))
    assert lines[1] == "6 words, 3 different ones"
    assert lines[2] == "most frequent: two 3, three 2, one 1"


def test_no_text_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "count_words.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr == f"there are no Python files in {tmp_path}\n"


@pytest.mark.parametrize("server", ["sidestep", "multiprocessing"])
@pytest.mark.parametrize("client", ["sidestep", "multiprocessing"])
def test_a_queue_is_served_to_other_programs(server: str, client: str) -> None:
    options = ["--package", server, "--port", "0", "--authkey", "a word"]
    command = [sys.executable, "-W", "error", str(EXAMPLES / "queue_server.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            found = re.fullmatch(
                r"serving a queue at 127\.0\.0\.1:(\d+)\n", serving.stdout.readline()
            )
            assert found
            options = ["--package", client, "--port", found[1], "--authkey", "a word"]
            assert run("queue_client.py", *options, "put", "hello", "world") == ["2 in the queue"]
            assert run("queue_client.py", *options, "get", "2") == ["hello", "world"]
            with pytest.raises(AssertionError, match="rejected"):
                run("queue_client.py", *options[:-1], "another word", "get")
        finally:
            serving.send_signal(signal.SIGINT)
    assert serving.returncode == 0


def test_frozen_numbers_lie_in_memory_once() -> None:
    counted, memory = run("frozen_numbers.py", "64")
    assert counted == "each worker counted 8388608 ones in 64 MB"
    # Four copies of the numbers would be 256 MB.
    assert int(memory.split()[4]) < 200
