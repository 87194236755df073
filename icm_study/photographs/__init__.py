"""Folders of photographs: which are known, how they are got, checked and read."""
