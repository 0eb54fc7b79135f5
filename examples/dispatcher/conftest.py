# The tests in here need a build that a dispatcher has installed: `pytest examples` leaves them out.
collect_ignore = ["tree"]
