"""Test beds: where the data come from, who trains, who chooses and who is tested."""
