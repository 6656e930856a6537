"""`python -m tools.generate`: see `generate.py`."""

import sys

from tools.generate.generate import main

sys.exit(main())
