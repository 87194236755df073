"""Captions of images and their edits: what text-based interventions on photographs are made of."""
