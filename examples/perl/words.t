#!/usr/bin/perl
# Test::More and List::Util come with Perl.  done_testing sets the exit status.
use strict;
use warnings;
use List::Util qw(first max);
use Test::More;

my %count;
$count{lc $_}++ for "The cat saw the dog, and the dog ran." =~ /\w+/g;

is($count{the}, 3, 'capitals do not matter');
is(max(values %count), 3, 'nothing is more frequent');
is_deeply([sort grep { $count{$_} == 2 } keys %count], ['dog'], 'one word comes twice');
ok(!defined(first { $_ eq 'mouse' } keys %count), 'no mouse');

done_testing();
