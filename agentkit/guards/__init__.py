"""What looks at a run while it works and may stop it: the loop detector."""
