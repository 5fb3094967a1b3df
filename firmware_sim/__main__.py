"""`python -m firmware_sim` is the `firmware-sim` command."""

import sys

from firmware_sim.cli import main

sys.exit(main())
