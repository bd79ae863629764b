"""Run the command `hcml` as `python -m hcml_lightning`."""

import sys

from hcml_lightning.cli import main

sys.exit(main())
