"""The tests of all packages; folders mirror the rooms."""
