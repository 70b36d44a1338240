"""``python -m sia_nb``."""

import sys

from .cli import main

sys.exit(main())
