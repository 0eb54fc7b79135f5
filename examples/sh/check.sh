# Not a test: its name is not that of one.  test_tar.sh sources it.
same() {
    [ "$1" = "$2" ] && return
    echo "expected: $2"
    echo "got:      $1"
    exit 1
}
