"""Where the standard library starts processes on Windows; the engine is for Linux.

The file is here since tools that walk the package expect its name.
"""

__all__: list[str] = []
