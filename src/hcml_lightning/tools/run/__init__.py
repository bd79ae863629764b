"""One run: its folder, its checkpoints, its W&B run, what it prints and records, and how a finished one is read."""
