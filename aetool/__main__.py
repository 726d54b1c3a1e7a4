"""python -m aetool"""

import sys

from aetool.cli import main

sys.exit(main())
