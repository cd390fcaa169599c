"""What each verb of `%agent` and `%%agent` does."""
