"""Aligning as a user does: graphs exported to files, one command, and what its matches are worth by withheld links."""
