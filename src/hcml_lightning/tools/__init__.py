"""What the command line runs: `training` has Lightning's own commands, `commands` names the modules of the others."""
