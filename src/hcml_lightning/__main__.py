"""`python -m hcml_lightning` is `hcml`."""

import sys

from hcml_lightning.cli import main

sys.exit(main())
