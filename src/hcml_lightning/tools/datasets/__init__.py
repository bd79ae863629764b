"""`hcml data` and `hcml synthesize`: check, copy, time and write the videos of a dataset."""
