"""Lists or runs tests of the interpreter's own suite; `run.py` starts it, once per class.

    worker.py list                  the tests, one JSON line [module, class, tests] per class
    worker.py run FILE TEST...      runs each `module.Class.test`, appends reports to the file

A report is a JSON line [test, outcome, text]. The outcome is `started`, `passed`, `failed` or
`skipped`; the text is a traceback or the reason of a skip. The test is empty for what happens
outside of tests, as in the set-up of a class.
"""

import faulthandler
import importlib
import importlib.util
import json
import os
import pkgutil
import signal
import sys
import unittest
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any

# `cases` makes the classes of one start method; the other modules have those of all methods.
CASES = "cases"
MAIN_MODULE = "test.test_multiprocessing_main_handling"
FUTURES = "test.test_concurrent_futures"

Error = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


def suite(method: str) -> Iterator[type[unittest.TestCase]]:
    """The classes that say something about one start method."""
    for module in modules():
        for value in list(vars(module).values()):
            if not isinstance(value, type) or not issubclass(value, unittest.TestCase):
                continue
            of_method = getattr(value, "start_method", None) or getattr(value, "ctx", None)
            if value.__module__ == module.__name__ and (
                of_method == method or module.__name__ == CASES
            ):
                yield value


def modules() -> Iterator[ModuleType]:
    yield importlib.import_module(CASES)
    yield importlib.import_module(MAIN_MODULE)
    # Not every build of Python installs this one.
    if importlib.util.find_spec(FUTURES) is not None:
        futures = importlib.import_module(FUTURES)
        yield futures
        for found in pkgutil.iter_modules(getattr(futures, "__path__", ()), f"{FUTURES}."):
            yield importlib.import_module(found.name)


class Reporter(unittest.TestResult):
    """Writes down what happens, in the process that runs the tests and not in its forks."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.pid = os.getpid()
        self.outcome, self.text = "", ""

    def report(self, test: str, outcome: str, text: str = "") -> None:
        if os.getpid() == self.pid:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps([test, outcome, text]) + "\n")

    def note(self, test: Any, outcome: str, text: str = "") -> None:
        # Set-up of a class is reported by an object that only has a name.
        if not isinstance(test, unittest.TestCase):
            self.report("", outcome, f"{test}: {text}")
        elif self.outcome != "failed":
            self.outcome, self.text = outcome, text

    def startTest(self, test: unittest.TestCase) -> None:
        self.outcome, self.text = "", ""
        self.report(name(test), "started")

    def stopTest(self, test: unittest.TestCase) -> None:
        self.report(name(test), self.outcome or "passed", self.text)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.note(test, "skipped", reason)

    def addError(self, test: unittest.TestCase, err: Error) -> None:
        self.note(test, "failed", self.traceback(test, err))

    def addFailure(self, test: unittest.TestCase, err: Error) -> None:
        self.note(test, "failed", self.traceback(test, err))

    def addSubTest(self, test: Any, subtest: unittest.TestCase, err: Error | None) -> None:
        if err is not None:
            self.note(test, "failed", f"{subtest}\n{self.traceback(test, err)}")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.note(test, "failed", "passed, and was expected to fail")

    def addExpectedFailure(self, test: unittest.TestCase, err: Error) -> None:
        self.note(test, "passed")

    def traceback(self, test: unittest.TestCase, err: Error) -> str:
        text: str = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]
        return text


def name(test: unittest.TestCase) -> str:
    return test.id().rpartition(".")[2]


def list_tests(method: str) -> None:
    for case in suite(method):
        names = unittest.defaultTestLoader.getTestCaseNames(case)
        print(json.dumps([case.__module__, case.__qualname__, list(names)]))


def run_tests(file: str, tests: list[str]) -> None:
    # A hung test is aborted by a signal: then its stacks are worth reading.
    faulthandler.enable()
    # Jobs in the background ignore SIGINT and hand that down; some of the tests wait for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.defaultTestLoader.loadTestsFromNames(tests).run(Reporter(file))


if __name__ == "__main__":
    if sys.argv[1] == "list":
        list_tests(os.environ[importlib.import_module(CASES).METHOD_VARIABLE])
    else:
        run_tests(sys.argv[2], sys.argv[3:])
