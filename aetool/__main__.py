"""python -m aetool"""

import os
import sys

if sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - Python put it there; a module lying in it is none of ours
    del sys.path[0]

from aetool.cli import main

sys.exit(main())
