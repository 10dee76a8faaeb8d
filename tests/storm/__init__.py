"""A storm of kills over everything at once, with an exact account at the end.

    make storm STORM="--seed 7 --kills 10000"

`__main__` is the command; `controller` starts, kills, replaces and watches; the other modules are
what the victims do, and the books that are kept of it. `soak` and `churn` are commands of their
own.
"""
