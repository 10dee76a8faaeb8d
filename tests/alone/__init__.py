"""Programs that know nothing of the package, run by `python -m sidestep`."""
