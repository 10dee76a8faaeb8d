"""One sample: `python benches/sample.py SUITE WORKLOAD CONTENDER SCALE` prints it as JSON.

This is the main module that spawned children import again, so at its top it imports nothing, but
for workloads that want to see what such an import costs.
"""

import os

for _name in os.environ.get("BENCH_MAIN_IMPORTS", "").split():
    __import__(_name)


def main() -> None:
    import json
    import sys
    from dataclasses import asdict

    from measure import measure

    suite, name, contender, scale = sys.argv[1:]
    print(json.dumps(asdict(measure(suite, name, contender, float(scale)))))


if __name__ == "__main__":
    main()
