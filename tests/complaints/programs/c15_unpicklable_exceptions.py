"""An exception, or a result, that cannot be unpickled stops the pool for good."""

import multiprocessing
import threading
from typing import Any, NoReturn

import facts


class TwoArguments(Exception):
    """Pickles well, and cannot be rebuilt: its `args` are one, its parameters two."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{what} {code}")


class Unpicklable(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.lock = threading.Lock()


class Exploding:
    """A result that can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


class Exiting:
    def __reduce__(self) -> tuple[Any, ...]:
        return leave, ()


class Unusual(BaseException):
    pass


def explode() -> NoReturn:
    raise RuntimeError("exploded on arrival")


def leave() -> NoReturn:
    raise SystemExit("left on arrival")


def raises_two(x: int) -> None:
    raise TwoArguments(42, "teapot")


def raises_unpicklable(x: int) -> None:
    raise Unpicklable("teapot 42")


def raises_unusual(x: int) -> None:
    raise Unusual("teapot 42")


def exits(x: int) -> None:
    raise SystemExit("teapot 42")


def returns_exploding(x: int) -> Exploding:
    return Exploding()


def returns_exiting(x: int) -> Exiting:
    return Exiting()


def comes_back_as_an_error(task: Any, words: str) -> None:
    with multiprocessing.Pool(1) as pool:
        try:
            pool.apply(task, (1,))
        except BaseException as error:
            text = f"{error!r} {error.__cause__}"
            assert words in text, text
        else:
            raise AssertionError("no error came")
        assert pool.apply(abs, (-1,)) == 1


def face_exception_that_cannot_be_rebuilt() -> None:
    comes_back_as_an_error(raises_two, "teapot 42")


def face_exception_that_cannot_be_pickled() -> None:
    comes_back_as_an_error(raises_unpicklable, "teapot 42")


def face_exception_that_is_not_an_exception() -> None:
    comes_back_as_an_error(raises_unusual, "")


def face_task_that_exits() -> None:
    comes_back_as_an_error(exits, "")


def face_result_that_cannot_be_rebuilt() -> None:
    comes_back_as_an_error(returns_exploding, "exploded on arrival")


def face_result_that_exits_when_rebuilt() -> None:
    comes_back_as_an_error(returns_exiting, "left on arrival")


def face_task_that_cannot_be_rebuilt() -> None:
    """The worker cannot even read its arguments."""
    with multiprocessing.Pool(1) as pool:
        try:
            pool.apply(abs, (Exploding(),))
        except Exception as error:
            assert "exploded on arrival" in f"{error!r} {error.__cause__}"
        else:
            raise AssertionError("no error came")
        assert pool.apply(abs, (-1,)) == 1


def face_in_a_map() -> None:
    with multiprocessing.Pool(2) as pool:
        try:
            pool.map(raises_two, range(4))
        except Exception as error:
            assert "teapot 42" in f"{error!r} {error.__cause__}"
        else:
            raise AssertionError("no error came")


if __name__ == "__main__":
    facts.choose(globals())
