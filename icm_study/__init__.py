"""The study of CLIP-ICM: rooms in the order in which the data flow."""
