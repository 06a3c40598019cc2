"""Numbers become weights."""
