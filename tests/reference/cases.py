"""The interpreter's own multiprocessing tests, as classes for one start method.

Children of the tests import this module too, to find their targets: the start method comes from
the environment, so that all of them make the same classes.
"""

import os

from test import _test_multiprocessing

METHOD_VARIABLE = "REFERENCE_START_METHOD"

_test_multiprocessing.install_tests_in_module_dict(globals(), os.environ[METHOD_VARIABLE])
