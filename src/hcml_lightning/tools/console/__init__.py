"""What every command shares: output to the terminal and to files, messages for expected errors, started processes."""
