"""`python -m tools.trial`: see `trial.py`."""

import sys

from tools.trial.trial import main

sys.exit(main())
