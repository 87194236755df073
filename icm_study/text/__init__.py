"""Captions, and their edits."""
