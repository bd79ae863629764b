"""`hcml fit`, `validate` and `test`: from the words of the command line to LightningCLI and one stage."""
