"""Tell producers that their jobs have ended."""
