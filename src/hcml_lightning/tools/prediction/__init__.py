"""`hcml predict` and `hcml export`: use a trained recogniser on other videos, and without this package."""
