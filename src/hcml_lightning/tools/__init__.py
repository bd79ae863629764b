"""What the command line runs: `commands` names each command and its module; each folder serves a few of them."""
