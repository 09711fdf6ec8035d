"""`python -m loginmea_fast`."""

import sys

from loginmea_fast.cli import main

sys.exit(main())
