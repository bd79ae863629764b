"""`hcml progressive`: all stages in order, each from the checkpoint of the one before."""
