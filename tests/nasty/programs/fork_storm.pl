#!/usr/bin/env perl
# Runs up to 400 processes that fork as fast as possible, in their own groups and sessions.
use POSIX qw(setsid setpgid);
pipe(my $read, my $write);
syswrite $write, "x" x 400;
sub storm {
    while (sysread $read, my $token, 1) {
        next if fork;
        rand() < 0.3 ? setsid : rand() < 0.3 ? setpgid(0, 0) : 0;
        storm() if rand() < 0.5;
        syswrite $write, "x";
        exit;
    }
}
$SIG{CHLD} = "IGNORE";
storm();
