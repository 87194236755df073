"""Public data sets: what is known of them, how to get them, and the check of a folder of images."""
