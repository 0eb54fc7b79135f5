#!/usr/bin/awk -f
# Any interpreter will do: this test is an awk program.
function median(text,    n, v, i, j, t) {
    n = split(text, v, " ")
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n % 2 ? v[(n + 1) / 2] + 0 : (v[n / 2] + v[n / 2 + 1]) / 2
}
function check(text, want,    got) {
    got = median(text)
    print "median of", text, "is", got
    if (got != want) { print "expected", want; bad = 1 }
}
BEGIN {
    check("3 1 2", 2)
    check("10 9 2 1", 5.5)
    check("7", 7)
    exit bad
}
