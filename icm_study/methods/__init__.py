"""CLIP-ICM and its rivals, behind one interface."""
