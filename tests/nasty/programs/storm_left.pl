#!/usr/bin/env perl
# Leaves up to 300 processes that fork all the time.
use POSIX "setsid";
pipe(my $read, my $write);
syswrite $write, "x" x 300;
$SIG{CHLD} = "IGNORE";
exit if fork;
setsid;
while (sysread $read, my $token, 1) {
    next if fork;
    fork if rand() < 0.2;
    select undef, undef, undef, rand() / 10;
    syswrite $write, "x";
    exit;
}
