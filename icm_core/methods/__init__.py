"""Cheap ways to adapt an encoder to a new domain, all behind one small interface."""
