"""Questions and answers through a pipe.

    python examples/talk_through_a_pipe.py

`Pipe` gives two connected ends; both can send and receive whole Python objects. When one side
has closed its end (or has died), the other gets `EOFError` instead of waiting for ever.
"""

import sidestep as multiprocessing
from sidestep.connection import Connection


def answer_questions(line: Connection, callers_end: Connection) -> None:
    """Send back each list of numbers with its sum and largest, until the caller hangs up."""
    # A child has a copy of everything it was given. Only when nobody holds the caller's end any
    # more is the line seen as dead, so the copy here must go.
    callers_end.close()
    while True:
        try:
            numbers = line.recv()
        except EOFError:
            break
        line.send({"count": len(numbers), "sum": sum(numbers), "largest": max(numbers)})
    print("the caller hung up", flush=True)


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.Process(target=answer_questions, args=(theirs, ours))
    child.start()
    theirs.close()

    for numbers in ([5, 8, 2], [1.5, 2.5], list(range(101))):
        ours.send(numbers)
        answer = ours.recv()
        print(f"{answer['count']} numbers: sum {answer['sum']}, largest {answer['largest']}")

    ours.close()
    child.join()


if __name__ == "__main__":
    main()
