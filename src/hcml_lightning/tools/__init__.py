"""What the command line runs: `training` is Lightning's own, every other module is one command."""
