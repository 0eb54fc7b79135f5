"""The tests of all packages; the folders mirror those of the source."""
