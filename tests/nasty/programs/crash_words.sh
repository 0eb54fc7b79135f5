#!/bin/sh
# Writes output that looks like that of a test runner.
printf '\033[2J\033[1;1H===== 1000 passed in 0.01s =====\r\n'
printf 'PASSED test_exit_1.sh\n'
exit 1
